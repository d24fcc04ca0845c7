from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.batch import Batch
from graftwork.errors import OptionError, UnknownName
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.runtime import Runtime, native_bf16, repeatable, seeded
from graftwork.seeds import derive_seed
from graftwork.testing.toy import make_items, mlp, recipe

WIDE = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 200, 3))
CPU = torch.device("cpu")


def test_defaults_are_plain() -> None:
    session = Runtime(device="cpu").start(nn.Linear(2, 2))
    assert session.describe() == "cpu, fp32"
    assert session.forward is not None


def test_auto_takes_bf16_and_channels_last_where_they_pay() -> None:
    session = Runtime(device="cpu", precision="auto").start(WIDE)
    expected = "cpu, bf16, channels-last" if native_bf16(CPU) else "cpu, fp32, channels-last"
    assert session.describe() == expected
    assert Runtime(device="cpu", precision="auto").start(nn.Linear(9, 9)).describe() == "cpu, fp32"
    said = Runtime(device="cpu", precision="auto").start(nn.Linear(9, 9), products=True).describe()
    assert said == ("cpu, bf16" if native_bf16(CPU) else "cpu, fp32")


def test_channels_last_changes_the_format_and_not_the_values() -> None:
    conv = nn.Conv2d(3, 8, 3)
    x = torch.randn(2, 3, 9, 9)
    before = conv(x)
    session = Runtime(device="cpu", channels_last=True).start(conv)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(session.forward(*session.shape([x])), before, atol=1e-6)


def test_bf16_forward_is_bf16_and_near_fp32() -> None:
    linear, x = nn.Linear(16, 16), torch.randn(4, 16)
    session = Runtime(device="cpu", precision="bf16").start(linear)
    with session.autocast():
        low = session.forward(x)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), linear(x), atol=0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch.compile needs a C++ compiler, which CI has on Linux")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_same_and_keeps_its_names() -> None:
    module, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(5, 4)
    session = Runtime(device="cpu", compile=True).start(module)
    assert torch.allclose(session.forward(x), module(x), atol=1e-6)
    assert list(module.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert session.describe() == "cpu, fp32, compiled"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "fp61"}, UnknownName, "fp16"),
        ({"device": "gpuu"}, OptionError, "no device torch knows"),
        ({"device": "cuda"}, OptionError, "not available"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a cuda device")
    with pytest.raises(error, match=message):
        Runtime(**options)


def test_seeded_puts_the_global_generator_back() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)


def test_derived_seeds_differ_by_every_part_and_are_the_same_everywhere() -> None:
    seeds = {derive_seed(s, name, n) for s in (0, 1) for name in ("order", "batch") for n in range(10)}
    assert len(seeds) == 40
    assert derive_seed(42, "order", 0) == 1608622093565479053
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a cuda device")
def test_batches_move_to_the_device_and_the_index_stays() -> None:
    session = Runtime(device="cuda").start(nn.Linear(2, 2))
    batch = session.place(Batch({"x": torch.zeros(3, 2)}, ("x",), (), torch.arange(3)))
    assert batch.x.device.type == "cuda"
    assert batch.index.device.type == "cpu"


@pytest.mark.parametrize("channels_last", [True, False, None])
def test_pictures_get_the_models_memory_format_whatever_theirs_is(channels_last: bool | None) -> None:
    session = Runtime(device="cpu", channels_last=channels_last).start(nn.Conv2d(3, 8, 3))
    wanted = torch.contiguous_format if channels_last is False else torch.channels_last
    x = torch.randn(2, 3, 9, 9)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        (shaped,) = session.shape([given])
        assert shaped.is_contiguous(memory_format=wanted)
        assert torch.equal(shaped, x)


@pytest.mark.parametrize("set_before", [None, ":16:8"])
def test_repeatable_borrows_the_flags_and_puts_them_back(
    set_before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if set_before is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", set_before)

    def flags() -> tuple[Any, ...]:
        cudnn = torch.backends.cudnn
        mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
        return mode, cudnn.deterministic, cudnn.benchmark, threads, os.environ.get("CUBLAS_WORKSPACE_CONFIG")

    before = flags()
    with contextlib.suppress(KeyError), repeatable(threads=3):
        assert flags() == (2, True, False, 3, set_before or ":4096:8")
        raise KeyError
    assert flags() == before
    with repeatable(False, threads=3):
        assert flags() == before


def test_a_deterministic_fit_is_one_only_while_it_lasts() -> None:
    seen = []

    class Look(Callback):
        def fit_end(self, state: TrainState) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())

    data = recipe().dataloaders(make_items(), bs=16, workers=0)
    runtime = Runtime(device="cpu", deterministic=True)
    learn = Learner(data, mlp(), runtime=runtime, callbacks=[Look()], progress=False).fit(1)
    assert (seen, torch.are_deterministic_algorithms_enabled()) == ([True], False)
    assert learn.session.describe() == "cpu, fp32, deterministic"
