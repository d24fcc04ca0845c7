"""Real processes that train together, against one process that does the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.accumulate import MeanMetric, Metric
from graftwork.batch import Batch, Part
from graftwork.dataloader import ColumnLoader, ItemLoader
from graftwork.errors import OptionError, TrainingError, UnknownName
from graftwork.launcher import launch
from graftwork.metric import accuracy, f1, mse, r2, roc_auc
from graftwork.processes import ALONE, Processes, _framed, _unframed, started_here
from graftwork.runtime import Runtime
from graftwork.testing.toy import make_items, mlp, recipe

SCRIPT = Path(__file__).with_name("several.py")
CLOSE = 2e-6
SHARDS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)
can_shard = pytest.mark.skipif(not SHARDS, reason="fsdp needs torch >= 2.6")
SHARDED = pytest.param("sharded", marks=can_shard)
EQUAL = ("plain", "items", "weighted", "frozen", "accumulated", "own", "sharded", "sweep")
"""What several processes do as one does, to rounding."""


def run(folder: Path, *jobs: str, fresh: bool = False) -> subprocess.CompletedProcess[str]:
    """Run cases, "PROCESSES:CASE,CASE", in fresh processes or in copies of one that has imported all."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT) if fresh else "-", str(folder), *jobs]
    code = None if fresh else SCRIPT.read_text()
    return subprocess.run(command, env=env, input=code, capture_output=True, text=True, timeout=240, check=False)


def said(folder: Path, case: str, processes: int, rank: int = 0) -> Any:
    return json.loads((folder / f"{case}-{processes}-{rank}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all cases in one, two and three processes, once for all tests."""
    folder = tmp_path_factory.mktemp("processes")
    jobs = (
        (1, EQUAL),
        (2, (*EQUAL, "written", "written_on", "stops", "norm")),
        (3, ("plain", "items", "sharded_on")),
        (1, ("sharded_on", "written_on")),
    )
    able = [(count, [case for case in cases if SHARDS or "sharded" not in case]) for count, cases in jobs]
    done = run(folder, *(f"{count}:{','.join(cases)}" for count, cases in able))
    assert done.returncode == 0, done.stderr
    return folder


def differ(left: Any, right: Any) -> float:
    return float(np.abs(np.asarray(left, dtype=float) - np.asarray(right, dtype=float)).max())


def assert_close(one: Any, several: Any) -> None:
    assert one["steps"] == several["steps"]
    assert one["index"] == several["index"], "an item is lost or doubled in validation"
    assert one["bad"] == several["bad"]
    assert one["weights"].keys() == several["weights"].keys()
    for name, value in one["weights"].items():
        assert differ(value, several["weights"][name]) < CLOSE, name
    for what in ("losses", "predictions"):
        assert differ(one[what], several[what]) < CLOSE, what
    for line, other in zip(one["history"], several["history"], strict=True):
        assert line == pytest.approx(other, abs=CLOSE)


@pytest.mark.parametrize("case", [SHARDED if case == "sharded" else case for case in EQUAL[:-1]])
def test_two_processes_train_as_one_does(folder: Path, case: str) -> None:
    assert_close(said(folder, case, 1), said(folder, case, 2))


@pytest.mark.parametrize("case", ["plain", "items"])
def test_three_processes_train_as_one_does(folder: Path, case: str) -> None:
    assert_close(said(folder, case, 1), said(folder, case, 3))


@pytest.mark.parametrize("case", ["plain", SHARDED, "norm", "stops"])
def test_all_processes_end_with_the_same(folder: Path, case: str) -> None:
    first, second = said(folder, case, 2), said(folder, case, 2, rank=1)
    assert first == second


def test_the_range_test_finds_the_same_rate(folder: Path) -> None:
    one, two = said(folder, "sweep", 1), said(folder, "sweep", 2)
    assert one["lrs"] == two["lrs"]
    assert one["suggestions"] == pytest.approx(two["suggestions"])
    assert said(folder, "sweep", 2, rank=1) == two


@can_shard
@pytest.mark.parametrize("processes", [1, 3])
def test_sharded_weights_go_on_in_another_number_of_processes(folder: Path, processes: int) -> None:
    assert (folder / "sharded" / "step-000000010.parts").is_dir()
    assert_close(said(folder, "sharded", 2), said(folder, "sharded_on", processes))


def test_a_resumed_run_of_two_ends_in_the_same_bits(folder: Path) -> None:
    assert said(folder, "written", 2) == said(folder, "written_on", 2)


def test_a_run_of_two_goes_on_in_one(folder: Path) -> None:
    two, one = said(folder, "written", 2), said(folder, "written_on", 1)
    assert one["steps"] == two["steps"]
    assert len(one["losses"]) == len(two["losses"])
    assert one["losses"][:5] == two["losses"][:5]


def test_one_process_that_says_stop_stops_all(folder: Path) -> None:
    steps = said(folder, "stops", 2)["steps"]
    assert 4 <= steps < 6 * 7


def test_one_failing_process_ends_all_with_its_error(tmp_path: Path) -> None:
    done = run(tmp_path, "2:fails", fresh=True)
    assert done.returncode == 1
    assert "process 1 of 2 failed" in done.stderr
    assert "ValueError: the sky fell" in done.stderr
    assert not list(tmp_path.glob("fails-*"))


@can_shard
def test_a_damaged_part_is_found(folder: Path, tmp_path: Path) -> None:
    from shutil import copytree

    from graftwork.errors import ArtifactError
    from graftwork.resume import read_snapshot

    copy = copytree(folder / "sharded", tmp_path / "copy")
    file = next((copy / "step-000000010.parts").iterdir())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="damaged"):
        read_snapshot(copy / "step-000000010.graft")
    file.unlink()
    with pytest.raises(ArtifactError, match="not there"):
        read_snapshot(copy / "step-000000010.graft")


def test_torchrun_starts_them(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from graftwork.processes import join\n"
        "here = join(torch.device('cpu'))\n"
        "assert here.largest(here.rank + 5) == 6\n"
        "Path(sys.argv[1], str(here.rank)).write_text(str(float(here.total(torch.ones(())))))\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2.0", "2.0"]


# -- parts ---------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 60), bs=st.integers(1, 20), world=st.integers(1, 7))
def test_parts_cover_every_batch_once(count: int, bs: int, world: int) -> None:
    data = recipe().dataloaders(make_items(40), bs=2, workers=0, cache="memory")
    loader = ColumnLoader({"x": torch.randn(count, 4)}, data.plan, bs=bs, shuffle=True, training=True)
    whole = list(loader.at(1))
    parts = [list(loader.at(1, part=Part(rank=rank, world=world))) for rank in range(world)]
    for number, batch in enumerate(whole):
        mine = [part[number] for part in parts]
        counted = [b for b in mine if b.share]
        assert torch.equal(torch.cat([b.index for b in counted]), batch.index)
        assert sum(b.share for b in mine) == pytest.approx(world)
        assert [b.share * batch.size / world for b in counted] == pytest.approx([b.size for b in counted])
    assert all(len(part) == len(whole) for part in parts)


@pytest.mark.parametrize("world", [2, 3])
def test_items_of_a_part_that_are_all_bad_have_a_stand_in(world: int) -> None:
    data = recipe().dataloaders(make_items(40), bs=6, workers=0, cache=None)
    loader = data.train
    assert isinstance(loader, ItemLoader)
    batches = [list(loader.at(0, part=Part(rank=rank, world=world))) for rank in range(world)]
    assert len({len(found) for found in batches}) == 1
    assert all(not batch.certain for found in batches for batch in found)


def test_a_batch_that_all_have_is_divided() -> None:
    batch = Batch({"x": torch.arange(5)}, ("x",), (), torch.arange(5), torch.arange(5.0))
    parts = [batch.of(Part(rank=rank, world=2)) for rank in range(2)]
    assert [p.fields["x"].tolist() for p in parts] == [[0, 1, 2], [3, 4]]
    assert sum(p.share for p in parts) == pytest.approx(2)
    lone = batch.of(Part(rank=6, world=7))
    assert (lone.size, lone.share) == (1, 0.0)


# -- what is exchanged -----------------------------------------------------------------------------------------------


@given(
    words=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers() | st.text() | st.none()),
    numbers=st.lists(st.floats(allow_nan=False, width=32), max_size=5),
)
def test_messages_arrive_as_they_were(words: dict[str, Any], numbers: list[float]) -> None:
    said = {**words, "tensor/t": torch.tensor(numbers), "tensor/b": torch.tensor([True, False])}
    got = _unframed(torch.frombuffer(_framed(said), dtype=torch.uint8).clone())
    assert {name: value for name, value in got.items() if name not in ("tensor/t", "tensor/b")} == words
    assert torch.equal(got["tensor/t"], said["tensor/t"])
    assert torch.equal(got["tensor/b"], said["tensor/b"])


@pytest.mark.parametrize("make", [accuracy, f1, roc_auc, mse, r2], ids=lambda make: make.__name__)
@pytest.mark.parametrize("empty", [False, True], ids=["both", "one-empty"])
def test_metrics_travel(make: Any, empty: bool) -> None:
    torch.manual_seed(3)
    classes = make in (accuracy, f1, roc_auc)
    predicted = torch.rand(20, 3).softmax(1) if classes else torch.rand(20)
    target = torch.arange(20) % 3 if classes else torch.rand(20)
    whole, left, right = make(), make(), make()
    whole.update(predicted, target)
    left.update(predicted if empty else predicted[:7], target if empty else target[:7])
    if not empty:
        right.update(predicted[7:], target[7:])
    merged: Metric = make()
    for metric in (left, right):
        other = make()
        other.load_state_dict(_unframed(torch.frombuffer(_framed(metric.state_dict()), dtype=torch.uint8).clone()))
        merged.merge(other)
    assert merged.compute() == pytest.approx(whole.compute(), abs=1e-7)


def test_a_metric_that_cannot_travel_says_so() -> None:
    class Own(Metric):
        name, higher_is_better = "own", True

        def update(self, predicted: Any, target: Any) -> None: ...
        def merge(self, other: Any) -> None: ...
        def compute(self) -> float:
            return 0.0

        def reset(self) -> None: ...
        def to(self, device: Any) -> None: ...

    with pytest.raises(OptionError, match=r"'own' cannot be merged over processes: Own has no state_dict"):
        Own().state_dict()
    assert MeanMetric(lambda p, t: p, name="m").state_dict() == {"count": 0}


# -- bad input -------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(OptionError, match=r"bs=64 cannot be divided among 3 processes; .* use 63 or 66"):
        Processes(rank=0, world=3).check_batch(64)
    with pytest.raises(OptionError, match=r"use 3$"):
        Processes(rank=0, world=3).check_batch(2)


def test_alone_nothing_is_exchanged() -> None:
    tensor = torch.ones(2)
    assert ALONE.total(tensor) is tensor
    assert ALONE.largest(3) == 3
    assert ALONE.exchange({"a": 1}) == [{"a": 1}]
    assert started_here() == ALONE


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert started_here() == Processes(rank=3, world=4, local_rank=1)


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        code = "import torch; from graftwork.processes import join; join(torch.device('cpu'))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "OptionError" in done.stderr
    assert "give torchrun another --master-port" in done.stderr


def test_an_unknown_strategy_is_answered() -> None:
    with pytest.raises(UnknownName, match="ddp"):
        Runtime(strategy="dpp")  # type: ignore[arg-type]


def test_synchronised_norm_needs_accelerators() -> None:
    with pytest.raises(OptionError, match="sync_norm needs accelerators"):
        Runtime(device="cpu", sync_norm=True).start(mlp())


def test_a_broken_connection_points_to_the_other_process() -> None:
    with (
        pytest.raises(TrainingError, match="process 1 of 2 ended because another one did"),
        Processes(rank=1, world=2).explained(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:525] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), Processes(rank=1, world=2).explained():
        raise RuntimeError("shapes do not fit")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot copy a process")
def test_a_function_of_a_notebook_runs_in_copies_of_this_process(tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "torch.randn(300, 300) @ torch.randn(300, 300)\n"
        "from pathlib import Path\n"
        "from graftwork import Learner, launch\n"
        "from graftwork.testing.toy import make_items, mlp, recipe\n"
        "def train(folder):\n"
        "    learn = Learner(recipe().dataloaders(make_items(), bs=16, workers=0), mlp(), progress=False).fit(1)\n"
        "    here = learn.session.processes\n"
        "    Path(folder, str(here.rank)).write_text(f'{here.world} {learn.recorder.losses}')\n"
        "launch(train, sys.argv[1], processes=2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [(tmp_path / rank).read_text() for rank in "01"]
    assert said[0] == said[1]
    assert said[0].startswith("2 [")


def test_no_processes_are_refused() -> None:
    with pytest.raises(OptionError, match="at least 1"):
        launch(print, processes=0)


def test_one_process_is_this_one() -> None:
    seen: list[int] = []
    launch(seen.append, 3, processes=1)
    assert seen == [3]
