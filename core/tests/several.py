"""What test_processes.py runs in several processes: each case leaves a file of what came out.

python several.py FOLDER PROCESSES:CASE,CASE...     fresh processes
python - FOLDER PROCESSES:CASE,CASE... < several.py  copies of one, which imports but once
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.callbacks.checkpointer import Checkpointer
from graftwork.events import Callback, TrainState
from graftwork.launcher import launch
from graftwork.learner import Learner
from graftwork.loss import CrossEntropy
from graftwork.model import ModelParts
from graftwork.processes import started_here
from graftwork.runtime import Runtime
from graftwork.testing.toy import make_items, recipe
from graftwork.weights import whole

ITEMS = make_items(157)  # 118 to train on, 39 to validate on: nothing divides


def network(norm: str = "none", dropout: float = 0.0) -> ModelParts:
    torch.manual_seed(0)
    kinds = {"none": nn.Identity(), "batch": nn.BatchNorm1d(128)}
    block = nn.Sequential(
        nn.Linear(4, 128), kinds[norm], nn.ReLU(), nn.Linear(128, 128), nn.Dropout(dropout), nn.ReLU()
    )
    head = nn.Linear(128, 3)
    return ModelParts(module=nn.Sequential(block, head), groups={"body": (block,), "head": (head,)})


def learner(
    *, bs: int = 18, cache: str = "memory", norm: str = "none", dropout: float = 0.0, **options: Any
) -> Learner:
    data = recipe().dataloaders(ITEMS, bs=bs, cache=cache, workers=0)
    options = {"optimizer": "adamw", "runtime": Runtime(device="cpu"), "metrics": METRICS, **options}
    return Learner(data, network(norm, dropout), progress=False, **options)


METRICS = ["accuracy", "f1", "roc_auc"]


def outcome(learn: Learner) -> dict[str, Any]:
    """Say all that a run leaves."""
    predictions = learn.get_preds()
    weights = {name: whole(value).flatten().tolist() for name, value in learn.module.state_dict().items()}
    return {
        "weights": weights,
        "losses": learn.recorder.losses,
        "history": [{k: v for k, v in line.items() if k != "seconds"} for line in learn.history],
        "predictions": predictions.activated.tolist(),
        "index": predictions.index.tolist(),
        "steps": learn.steps_done,
        "bad": {str(k): v for k, v in learn.data.train.bad_items.items()},
    }


class StopAt(Callback):
    """Say stop in one process, or raise."""

    def __init__(self, step: int, rank: int, error: BaseException | None = None) -> None:
        self.step, self.rank, self.error = step, rank, error

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step and state.processes.rank == self.rank:
            if self.error is not None:
                raise self.error
            state.stop("enough")


def plain(folder: Path) -> Any:
    return outcome(learner().fit_one_cycle(3, 1e-2))


def items(folder: Path) -> Any:
    """Items one by one, some of which cannot be read."""
    from graftwork.errors import ItemError

    broken = {5, 6, 7, 40}

    def numbers(item: Any) -> Any:
        if ITEMS.index(item) in broken:
            raise ItemError("broken")
        return item[0]

    data = recipe(getters={"x": numbers, "y": lambda item: item[1]}).dataloaders(ITEMS, bs=6, cache=None, workers=0)
    learn = Learner(data, network(), progress=False, runtime=Runtime(device="cpu"), metrics=METRICS)
    return outcome(learn.fit(2, 1e-2))


def weighted(folder: Path) -> Any:
    from graftwork.dataloader import ColumnLoader

    learn = learner()
    train = learn.data.train
    assert isinstance(train, ColumnLoader)
    train.weights = torch.arange(train.num_items).float() % 5
    return outcome(learn.fit(2, 1e-2))


def norm(folder: Path) -> Any:
    """Batch norm sees a process's part, and all processes end with the same statistics."""
    learn = learner(norm="batch").fit(1, 1e-2)
    said = started_here()
    from graftwork.processes import Processes

    everyone = Processes(rank=said.rank, world=said.world).exchange({"mean": learn.module[0][1].running_mean})
    assert all(torch.equal(other["mean"], everyone[0]["mean"]) for other in everyone)
    return outcome(learn)


def frozen(folder: Path) -> Any:
    return outcome(learner().fine_tune(2, 1e-2))


def sharded(folder: Path) -> Any:
    learn = learner(runtime=Runtime(device="cpu", strategy="fsdp"))
    learn.callbacks.append(Checkpointer(folder / "sharded", every_steps=5, keep=9, signals=False))
    learn.fit_one_cycle(3, 1e-2)
    if learn.session.processes.world > 1:
        assert learn.session.sharded
        assert sum(p.to_local().numel() for p in learn.module.parameters()) < 0.7 * sum(
            p.numel() for p in learn.module.parameters()
        )
    return outcome(learn)


def sharded_on(folder: Path) -> Any:
    """Go on from a checkpoint that another number of processes has written."""
    from graftwork.callbacks.checkpointer import checkpoint_files

    learn = learner(runtime=Runtime(device="cpu", strategy="fsdp"))
    return outcome(learn.resume(checkpoint_files(folder / "sharded")[1]))


def written(folder: Path) -> Any:
    learn = learner(dropout=0.3)
    learn.callbacks.append(Checkpointer(folder / "written", every_steps=5, keep=9, signals=False))
    return outcome(learn.fit_one_cycle(3, 1e-2))


def written_on(folder: Path) -> Any:
    from graftwork.callbacks.checkpointer import checkpoint_files

    return outcome(learner(dropout=0.3).resume(checkpoint_files(folder / "written")[1]))


def stops(folder: Path) -> Any:
    return outcome(learner(callbacks=[StopAt(4, started_here().world - 1)]).fit(6, 1e-2))


def fails(folder: Path) -> Any:
    """Fail in the last process; the others are to end too, and soon."""
    return outcome(
        learner(metrics="accuracy", callbacks=[StopAt(4, started_here().world - 1, ValueError("the sky fell"))]).fit(
            6, 1e-2
        )
    )


def sweep(folder: Path) -> Any:
    found = learner().lr_find(num_steps=30)
    return {"lrs": found.lrs, "losses": found.losses, "suggestions": found.suggestions}


def uneven(folder: Path) -> Any:
    return outcome(learner(bs=7).fit(1))


def accumulated(folder: Path) -> Any:
    from graftwork.callbacks.gradients import GradientAccumulation, GradientClip

    return outcome(learner(callbacks=[GradientAccumulation(2), GradientClip(max_norm=0.5)]).fit(2, 1e-2))


class Odd(CrossEntropy):
    """A loss of one's own, so that a callable optimizer and it are seen."""

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        return super().forward(raw, target) * 2


def own(folder: Path) -> Any:
    return outcome(learner(loss=Odd(), optimizer=torch.optim.SGD).fit(2, 1e-2))


def main(folder: Path, cases: list[str]) -> None:
    torch.use_deterministic_algorithms(True)
    for case in cases:
        said = globals()[case](folder)
        here = started_here()
        (folder / f"{case}-{here.world}-{here.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    for job in sys.argv[2:]:
        processes, _, cases = job.partition(":")
        launch(main, Path(sys.argv[1]), cases.split(","), processes=int(processes))
