"""Blocks: what one field of a sample is.

A block holds no data. It is a frozen dataclass whose fields are JSON values, so that it can be compared, printed and
written into an artifact. Raw blocks (`CategoryBlock`) say what the source gives; encoded blocks (`ClassIndexBlock`)
say what the model or the loss sees. Transforms lead from one to the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from graftwork.errors import BlockError, OptionError, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graftwork.transform import Transform

__all__ = [
    "Block",
    "BlockSteps",
    "CategoryBlock",
    "ClassIndexBlock",
    "Configurable",
    "MultiCategoryBlock",
    "MultiHotBlock",
    "RegressionBlock",
    "TargetBlock",
]

Label = str | int | float | bool


class Configurable:
    """Go to and from JSON by dataclass fields; `id` is the name in the registry."""

    id: ClassVar[str]

    def to_config(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {f.name: _to_json(getattr(self, f.name), owner=self.id, name=f.name) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from `to_config`'s mapping; raise UnknownName for a field this class does not have."""
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        for key in config:
            if key not in names:
                raise unknown(f"field of {cls.id}", key, names)
        return cls(**{key: _to_tuple(value) for key, value in config.items()})


def _to_json(value: Any, *, owner: str, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_to_json(v, owner=owner, name=name) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _to_json(v, owner=owner, name=name) for k, v in value.items()}
    raise OptionError(
        f"{owner}: field {name!r} holds a {type(value).__name__}, which has no JSON form; "
        "use numbers, strings and tuples of them, and register code as a component of its own"
    )


def _to_tuple(value: Any) -> Any:
    return tuple(_to_tuple(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSteps:
    """List the transforms a block needs whatever the user adds.

    `opening` run before the user's item transforms (a path becomes a picture), `closing` after them (a picture
    becomes a tensor), `batch` before the user's batch transforms (bytes become floats).
    """

    opening: tuple[Transform, ...] = ()
    closing: tuple[Transform, ...] = ()
    batch: tuple[Transform, ...] = ()


class Block(Configurable, ABC):
    """Say what one field is: how its values are checked, invented, batched and shown.

    An `optional` input may be left out when a model is used: its steps then get None.
    """

    optional: ClassVar[bool] = False

    @abstractmethod
    def check(self, value: Any) -> str | None:
        """Return why `value` is not one of this block's, or None."""

    @abstractmethod
    def mock(self, rng: np.random.Generator) -> Any:
        """Invent a value that passes `check`."""

    @abstractmethod
    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack values into one tensor with the batch as its first dimension; raise BlockError if they do not fit."""

    @abstractmethod
    def uncollate(self, column: Tensor) -> list[Any]:
        """Undo `collate`."""

    @abstractmethod
    def show(self, value: Any, ax: Axes) -> None:
        """Draw a value on matplotlib axes; blocks without a picture add a line to the title."""

    def steps(self) -> BlockSteps:
        """Return the transforms this block needs."""
        return BlockSteps()


class TargetBlock(Block):
    """Say what an encoded target asks of the model, the loss and the metrics.

    A `scaled` one is encoded in other units than people measure in; `measured` leads back to those.
    """

    scaled: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Number of values the model must give for a sample."""

    @property
    @abstractmethod
    def loss_id(self) -> str:
        """Registry id of the default loss."""

    @property
    @abstractmethod
    def metric_ids(self) -> tuple[str, ...]:
        """Registry ids of the default metrics."""

    @property
    @abstractmethod
    def baseline_ids(self) -> tuple[str, ...]:
        """Registry ids of the baselines every model is reported beside."""

    @abstractmethod
    def activate(self, raw: Tensor) -> Tensor:
        """Turn raw outputs (B, …) into probabilities or values, in float32."""

    @abstractmethod
    def predict(self, activated: Tensor) -> Tensor:
        """Turn activated outputs into encoded predictions, batched as `collate` batches targets."""

    def measured(self, column: Tensor) -> Tensor:
        """Return encoded targets or activated outputs in the units metrics and `get_preds` speak of."""
        return column

    def probabilities(self, row: Tensor) -> dict[str, float] | None:
        """Name the probabilities in one row of activated outputs; None where there are none."""
        return None


def _titled(ax: Axes, text: str) -> None:
    old = ax.get_title()
    ax.set_title(f"{old}\n{text}" if old else text, fontsize=9)


def plain(value: Any) -> Any:
    """Return a numpy scalar as the Python value it stands for."""
    return value.item() if isinstance(value, np.generic) else value


def _check_label(value: Any) -> str | None:
    value = plain(value)
    if value is None or (isinstance(value, float) and value != value):
        return "the label is missing"
    if not isinstance(value, str | int | float | bool):
        return f"a label is a string or a number, not {type(value).__name__}"
    return None


def _check_vocab(vocab: tuple[Label, ...] | None, owner: str) -> None:
    if vocab is not None and len(set(vocab)) != len(vocab):
        raise OptionError(f"{owner}: the vocabulary names a class twice: {vocab}")


@dataclass(frozen=True)
class CategoryBlock(Block):
    """Hold one label out of a few, a string or a number. A vocabulary not given is fitted on the training split."""

    id: ClassVar[str] = "core/category"
    vocab: tuple[Label, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice."""
        _check_vocab(self.vocab, self.id)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no label of this block, or None."""
        reason = _check_label(value)
        if reason is None and self.vocab is not None and plain(value) not in self.vocab:
            return f"{value!r} is not among the {len(self.vocab)} classes"
        return reason

    def mock(self, rng: np.random.Generator) -> Label:
        """Invent a label."""
        vocab = self.vocab or ("first", "second", "third")
        return vocab[int(rng.integers(len(vocab)))]

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: labels are encoded before they are batched."""
        raise BlockError(f"{self.id} holds labels, which have no tensor form; encode them first (Categorize)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: labels are encoded before they are batched."""
        raise BlockError(f"{self.id} holds labels, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Add the label to the title."""
        _titled(ax, str(value))

    def steps(self) -> BlockSteps:
        """Encode by value through the vocabulary."""
        from graftwork.transform import Categorize

        return BlockSteps(closing=(Categorize(vocab=self.vocab),))


@dataclass(frozen=True)
class ClassIndexBlock(TargetBlock):
    """Hold the position of a label in a fitted vocabulary; int64 (B,) in a batch. Models give (B, classes) logits."""

    id: ClassVar[str] = "core/class-index"
    vocab: tuple[Label, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice."""
        _check_vocab(self.vocab, self.id)

    @property
    def num_outputs(self) -> int:
        """One logit per class."""
        return len(self.vocab)

    @property
    def loss_id(self) -> str:
        """Cross-entropy."""
        return "core/cross_entropy"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Accuracy."""
        return ("core/accuracy",)

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The most frequent class."""
        return ("core/majority",)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no class index, or None."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            return f"a class index is an integer, not {type(value).__name__}"
        return None if 0 <= value < len(self.vocab) else f"{value} is not in 0 … {len(self.vocab) - 1}"

    def mock(self, rng: np.random.Generator) -> int:
        """Invent a class index."""
        return int(rng.integers(len(self.vocab)))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to int64 (B,)."""
        return torch.tensor(values, dtype=torch.int64)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return Python integers."""
        return [int(v) for v in column.tolist()]

    def show(self, value: Any, ax: Axes) -> None:
        """Add the label to the title."""
        _titled(ax, str(self.vocab[value]))

    def activate(self, raw: Tensor) -> Tensor:
        """Softmax over the classes (dimension 1)."""
        return raw.float().softmax(1)

    def predict(self, activated: Tensor) -> Tensor:
        """Take the most probable class."""
        return activated.argmax(1)

    def probabilities(self, row: Tensor) -> dict[str, float]:
        """Name each class's probability."""
        return dict(zip(map(str, self.vocab), row.tolist(), strict=True))


@dataclass(frozen=True)
class MultiCategoryBlock(Block):
    """Hold several labels out of a few, as a sequence. A vocabulary not given is fitted on the training split."""

    id: ClassVar[str] = "core/multi-category"
    vocab: tuple[Label, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice."""
        _check_vocab(self.vocab, self.id)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no sequence of labels, or None."""
        if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset | np.ndarray):
            return f"several labels come as a sequence of labels, not as {type(value).__name__}"
        single = CategoryBlock(self.vocab)
        return next((reason for reason in map(single.check, value) if reason), None)

    def mock(self, rng: np.random.Generator) -> list[Label]:
        """Invent a list of labels, possibly empty."""
        vocab = self.vocab or ("first", "second", "third")
        return [label for label in vocab if rng.random() < 0.5]

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: labels are encoded before they are batched."""
        raise BlockError(f"{self.id} holds labels, which have no tensor form; encode them first (MultiCategorize)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: labels are encoded before they are batched."""
        raise BlockError(f"{self.id} holds labels, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Add the labels to the title."""
        _titled(ax, "; ".join(map(str, value)) or "(none)")

    def steps(self) -> BlockSteps:
        """Encode by value through the vocabulary."""
        from graftwork.transform import MultiCategorize

        return BlockSteps(closing=(MultiCategorize(vocab=self.vocab),))


@dataclass(frozen=True)
class MultiHotBlock(TargetBlock):
    """Hold one 0 or 1 per class of a fitted vocabulary; float32 (B, classes). Models give logits of the same shape."""

    id: ClassVar[str] = "core/multi-hot"
    vocab: tuple[Label, ...] = ()
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice and a threshold that is no probability."""
        _check_vocab(self.vocab, self.id)
        if not 0 < self.threshold < 1:
            raise OptionError(f"{self.id}: threshold={self.threshold} is not between 0 and 1")

    @property
    def num_outputs(self) -> int:
        """One logit per class."""
        return len(self.vocab)

    @property
    def loss_id(self) -> str:
        """Binary cross-entropy, a mean over classes."""
        return "core/bce"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Accuracy over all items and classes."""
        return ("core/accuracy_multi",)

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The training frequency of each class."""
        return ("core/majority",)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no vector of 0 and 1, or None."""
        if not isinstance(value, np.ndarray) or value.shape != (len(self.vocab),):
            return f"a multi-hot value is an array of shape ({len(self.vocab)},)"
        return None if np.isin(value, (0, 1)).all() else "a multi-hot value holds only 0 and 1"

    def mock(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Invent a vector of 0 and 1."""
        return rng.integers(0, 2, len(self.vocab)).astype(np.float32)

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32 (B, classes)."""
        return torch.from_numpy(np.stack(values).astype(np.float32))

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one float32 array per item."""
        return list(column.cpu().float().numpy())

    def show(self, value: Any, ax: Axes) -> None:
        """Add the labels to the title."""
        _titled(ax, "; ".join(str(c) for c, on in zip(self.vocab, value, strict=True) if on) or "(none)")

    def activate(self, raw: Tensor) -> Tensor:
        """Sigmoid."""
        return raw.float().sigmoid()

    def predict(self, activated: Tensor) -> Tensor:
        """Set the classes above the threshold to 1."""
        return (activated > self.threshold).float()

    def probabilities(self, row: Tensor) -> dict[str, float]:
        """Name each class's probability; they need not add up to 1."""
        return dict(zip(map(str, self.vocab), row.tolist(), strict=True))


@dataclass(frozen=True)
class RegressionBlock(TargetBlock):
    """Hold one number, or `n_out` numbers; float32 (B,) or (B, n_out). Models give (B, n_out) values."""

    id: ClassVar[str] = "core/regression"
    n_out: int = 1

    def __post_init__(self) -> None:
        """Refuse fewer than one number."""
        if self.n_out < 1:
            raise OptionError(f"{self.id}: n_out={self.n_out} must be at least 1")

    @property
    def num_outputs(self) -> int:
        """One value per number."""
        return self.n_out

    @property
    def loss_id(self) -> str:
        """Mean squared error."""
        return "core/mse"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Root of the mean squared error, and mean absolute error."""
        return ("core/rmse", "core/mae")

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The training mean."""
        return ("core/mean",)

    def check(self, value: Any) -> str | None:
        """Return why `value` is not `n_out` finite numbers, or None."""
        numbers = [value] if self.n_out == 1 and isinstance(value, Real) else value
        if isinstance(numbers, str) or not isinstance(numbers, Sequence | np.ndarray):
            return f"{self.n_out} number(s) expected, not {type(value).__name__}"
        if len(numbers) != self.n_out:
            return f"{self.n_out} number(s) expected, not {len(numbers)}"
        if not all(isinstance(v, Real) and np.isfinite(float(v)) for v in numbers):
            return f"not a finite number: {value!r}"
        return None

    def mock(self, rng: np.random.Generator) -> Any:
        """Invent numbers around zero."""
        return float(rng.normal()) if self.n_out == 1 else rng.normal(size=self.n_out).tolist()

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32; raise BlockError naming the first value that does not fit."""
        for value in values:
            reason = self.check(value)
            if reason:
                raise BlockError(f"{self.id}: {reason}")
        column = torch.from_numpy(np.asarray(values, dtype=np.float32))
        return column.reshape(len(values)) if self.n_out == 1 else column

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return Python floats, or lists of them."""
        return list(column.tolist())

    def show(self, value: Any, ax: Axes) -> None:
        """Add the numbers to the title."""
        numbers = [value] if isinstance(value, Real) else value
        _titled(ax, ", ".join(f"{float(v):.4g}" for v in numbers))

    def activate(self, raw: Tensor) -> Tensor:
        """Give the outputs the target's shape: (B,) for one number."""
        raw = raw.float()
        return raw.reshape(raw.shape[0]) if self.n_out == 1 else raw

    def predict(self, activated: Tensor) -> Tensor:
        """Return the values themselves."""
        return activated
