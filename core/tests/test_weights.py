"""Weights to bytes and back: safetensors without a copy, building without initialising, ties that stay ties."""

from __future__ import annotations

import json
import pickle
import random
import struct
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from graftwork import weights
from graftwork.errors import ArtifactError
from graftwork.weights import blank_build, fill, pack, pack_module, unpack

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool]


def writable(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


def read(data: bytes) -> dict[str, torch.Tensor]:
    return unpack(writable(data), what="weights")


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


shapes = st.lists(st.integers(0, 4), max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=8), st.tuples(shapes, st.sampled_from(DTYPES)), max_size=6
    ),
    st.integers(0, 1000),
)
def test_tensors_survive_and_the_library_agrees(described, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randint(0, 2, tuple(shape), generator=generator).to(dtype)
        for name, (shape, dtype) in described.items()
        if name != "__metadata__"
    }
    data = pack(tensors)
    ours, theirs = read(data), load(data)
    assert set(ours) == set(theirs) == set(tensors)
    for name, tensor in tensors.items():
        assert same(ours[name], tensor)
        assert same(theirs[name], tensor)


def test_views_of_the_bytes_are_not_copies():
    data = writable(pack({"a": torch.arange(6.0)}))
    tensor = unpack(data, what="weights")["a"]
    tensor[0] = 7
    assert unpack(data, what="weights")["a"][0] == 7


def test_layout_and_order_of_tensors_do_not_change_the_bytes():
    picture = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    plain = {"a": picture, "b": torch.ones(2)}
    strided = {"b": torch.ones(2), "a": picture.to(memory_format=torch.channels_last)}
    assert pack(plain) == pack(strided)
    assert same(read(pack(strided))["a"], picture)
    assert same(read(pack({"t": torch.arange(6).reshape(2, 3).T}))["t"], torch.arange(6).reshape(2, 3).T)


def test_views_of_one_memory_are_written_apart():
    whole = torch.arange(10.0)
    found = read(pack({"left": whole[:6], "right": whole[4:]}))
    assert found["left"].tolist() == whole[:6].tolist()
    assert found["right"].tolist() == whole[4:].tolist()


def test_types_a_file_cannot_hold_are_refused_by_name():
    with pytest.raises(ArtifactError, match=r"tensor 'z' is torch.complex64"):
        pack({"a": torch.ones(1), "z": torch.ones(1, dtype=torch.complex64)})


# --- refusals ----------------------------------------------------------------------------------


def made(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FOUR = bytes(4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no header"),
        (b"short", "no header"),
        (pickle.dumps({"a": 1}), "it is a pickle"),
        (struct.pack("<Q", 1 << 60) + bytes(8), "no header"),
        (struct.pack("<Q", 5) + b"{}   ", "no header"),
        (made(b"no json!"), "not JSON"),
        (made(b"[" * 50_000), "not JSON"),
        (made(b"\xff\xff"), "not JSON"),
        (made([1]), "not a JSON object"),
        (made({"a": 1}), "tensor 'a' is described wrongly"),
        (made({"a": {"dtype": "F32"}}), "tensor 'a' is described wrongly"),
        (made({"a": entry(dtype="PICKLE")}, FOUR), "tensor 'a' is described wrongly"),
        (made({"a": entry(shape="1")}, FOUR), "tensor 'a' is described wrongly"),
        (made({"a": entry(shape=[True])}, FOUR), "tensor 'a' is described wrongly"),
        (made({"a": entry(shape=[-1])}, FOUR), "tensor 'a' is described wrongly"),
        (made({"a": entry(shape=[1 << 62])}, FOUR), "tensor 'a' is described wrongly"),
        (made({"a": entry(shape=[1] * 65)}, FOUR), "tensor 'a' is described wrongly"),
        (made({"a": entry(offsets=[0])}, FOUR), "tensor 'a' is described wrongly"),
        (made({"a": entry(shape=[2])}, FOUR), "does not lie where its shape"),
        (made({"a": entry(offsets=[4, 8])}, FOUR * 2), "does not lie where its shape"),
        (made({"a": entry(), "b": entry(offsets=[0, 4])}, FOUR), "does not lie where its shape"),
        (made({"a": entry(), "b": entry(offsets=[2, 6])}, FOUR * 2), "does not lie where its shape"),
        (made({"a": entry("U8", [1], [0, 1]), "b": entry(offsets=[1, 5])}, bytes(5)), "does not lie where its shape"),
        (made({"a": entry()}), "does not lie where its shape"),
        (made({"a": entry(offsets=[-4, 0])}, FOUR), "does not lie where its shape"),
        (made({"a": entry()}, FOUR * 2), "4 bytes at its end belong to no tensor"),
        (made({}, FOUR), "4 bytes at its end belong to no tensor"),
    ],
)
def test_what_is_not_safetensors_is_refused(data, reason):
    with pytest.raises(ArtifactError, match="weights is refused") as caught:
        read(data)
    assert reason in str(caught.value)
    assert "nothing in it was run" in str(caught.value)


def test_metadata_of_other_writers_is_passed_over():
    assert list(read(save({"a": torch.ones(2)}, {"format": "pt"}))) == ["a"]


def test_a_thousand_mutations_are_read_or_refused():
    good = pack(
        {"a": torch.arange(5.0), "b": torch.ones(3, 2, dtype=torch.int64), "c": torch.ones(3, dtype=torch.bool)}
    )
    rng = random.Random(0)
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data) if rng.random() < 0.3 else 200)] = rng.randrange(256)
        try:
            found = read(bytes(data))
        except ArtifactError:
            continue
        assert sum(t.numel() * t.itemsize for t in found.values()) <= len(good)


# --- modules ----------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose weight is also the output layer's."""

    def __init__(self, *, tie: bool = True) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        if tie:
            self.out.weight = self.embed.weight


class Computed(nn.Module):
    """A buffer that is not saved, computed from the options; and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("position", torch.arange(4).float() / 4, persistent=False)
        self.scale = [torch.full((1,), 3.0)]


class Unsaved(nn.Module):
    """A buffer that is not saved and that is made in memory nobody has filled: it must not be left blank."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mask", torch.empty(3).fill_(2.0), persistent=False)


class Peeking(nn.Module):
    """Looks at a weight while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.bound = float(self.linear.weight.detach().abs().max()) * 0 + 1


class Pieces(nn.Module):
    """Everything that a module can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.table = nn.ParameterDict({"a": nn.Parameter(torch.randn(2))})
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.lstm = nn.LSTM(3, 4)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
        self.shared = self.conv


BUILDERS = [Pieces, Tied, Computed, Unsaved, Peeking, nn.Identity]


def rebuilt(module: nn.Module, build) -> nn.Module:
    data, aliases = pack_module(module)
    return blank_build(build, read(data), aliases)


@pytest.mark.parametrize("build", BUILDERS)
def test_a_module_is_rebuilt_to_the_bit(build):
    module = build()
    again = rebuilt(module, build)
    before, after = module.state_dict(keep_vars=True), again.state_dict(keep_vars=True)
    assert list(before) == list(after)
    for name, value in before.items():
        assert same(value.detach(), after[name].detach())
        assert value.requires_grad == after[name].requires_grad
    assert not any(t.is_meta for t in [*again.parameters(), *again.buffers()])
    for name, value in module.named_buffers():
        assert same(value, dict(again.named_buffers())[name])


def test_attributes_are_computed_as_ever():
    again = rebuilt(Computed(), Computed)
    assert again.scale[0].tolist() == [3.0]
    assert again.position.tolist() == [0, 0.25, 0.5, 0.75]
    assert rebuilt(Unsaved(), Unsaved).mask.tolist() == [2, 2, 2]
    assert rebuilt(Peeking(), Peeking).bound == 1


def test_building_leaves_the_random_state_as_it_was():
    module, peeking = Pieces(), Peeking()
    before = torch.get_rng_state()
    rebuilt(module, Pieces)
    rebuilt(peeking, Peeking)
    assert torch.equal(before, torch.get_rng_state())


def test_no_initial_value_is_computed_unless_the_builder_looks_at_one():
    blank = weights._built_blank(Pieces)
    assert all(p.is_meta for name, p in blank.named_parameters() if not name.startswith(("table", "frozen")))
    assert weights._built_blank(Peeking) is None


def test_ties_stay_ties():
    data, aliases = pack_module(Tied())
    assert aliases == {"out.weight": "embed.weight"}
    assert list(read(data)) == ["embed.weight"]
    again = blank_build(Tied, read(data), aliases)
    assert again.out.weight is again.embed.weight
    assert len(list(again.parameters())) == 1


def test_parameters_that_share_memory_still_do():
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(3))
            self.b = nn.Parameter(self.a.data)

    again = rebuilt(Sharing(), Sharing)
    assert again.a is not again.b
    assert again.a.data_ptr() == again.b.data_ptr()


def test_a_module_in_another_memory_format_gives_the_same_bytes():
    torch.manual_seed(0)
    module = Pieces()
    before = pack_module(module)
    module.conv.to(memory_format=torch.channels_last)
    assert pack_module(module) == before


@pytest.mark.parametrize(
    ("saved", "built", "reason"),
    [
        (
            lambda: nn.Linear(2, 3),
            lambda: nn.Linear(2, 4),
            r"'weight' is \(3, 2\) float32 in the file, and \(4, 2\) float32",
        ),
        (lambda: nn.Linear(2, 3).half(), lambda: nn.Linear(2, 3), r"\(3, 2\) float16 in the file"),
        (lambda: nn.Linear(2, 3, bias=False), lambda: nn.Linear(2, 3), "'bias' of the model is not in the file"),
        (lambda: nn.Linear(2, 3), lambda: nn.Linear(2, 3, bias=False), "'bias' in the file belongs to nothing"),
        (lambda: Tied(tie=False), Tied, "'out.weight' is tied to another one in the model"),
    ],
)
def test_what_does_not_fit_is_named(saved, built, reason):
    with pytest.raises(ArtifactError, match=reason):
        rebuilt(saved(), built)


@pytest.mark.parametrize("aliases", [{"out.weight": "nowhere"}, {"out.weight": 3}, ["out.weight"], {"out.weight": []}])
def test_aliases_that_fit_nothing_are_refused(aliases):
    data, _ = pack_module(Tied())
    with pytest.raises(ArtifactError, match="names of tied tensors"):
        fill(Tied(), read(data), aliases)


def test_what_cannot_be_saved_is_named():
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"step": 1}

    with pytest.raises(ArtifactError, match="state '_extra_state' is a dict"):
        pack_module(Extra(1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older torch warns of lazy modules as such
        lazy = nn.LazyLinear(3)
    with pytest.raises(ArtifactError, match="'weight' has no shape yet"):
        pack_module(lazy)


def test_a_builder_that_fails_says_so_itself():
    def broken() -> nn.Module:
        raise ValueError("no such width")

    with pytest.raises(ValueError, match="no such width"):
        blank_build(broken, {}, {})


def test_a_filled_module_learns():
    module = rebuilt(Pieces(), Pieces)
    module.conv(torch.randn(1, 2, 8, 8)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert module.conv.weight.grad is not None


SHAPES = [(), (0,), (1,), (3, 0, 2), (2, 3), (1, 2, 3, 1)]


def test_what_is_packed_is_what_the_library_writes():
    kinds = [(dtype, shape) for dtype in DTYPES for shape in SHAPES]
    tensors = {str(n): torch.ones(shape, dtype=dtype) for n, (dtype, shape) in enumerate(kinds)}
    ours, theirs = pack(tensors), save(tensors)
    ends = [8 + struct.unpack_from("<Q", data)[0] for data in (ours, theirs)]
    assert ours[ends[0] :] == theirs[ends[1] :]
    assert ours[8 : ends[0]].rstrip() == theirs[8 : ends[1]].rstrip()
    assert ends[0] % 64 == 0
