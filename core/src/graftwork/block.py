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
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from graftwork.configurable import Configurable
from graftwork.errors import BlockError, OptionError
from graftwork.labels import (
    Label,
    NamedThresholds,
    check_label,
    check_thresholds,
    check_vocab,
    named_thresholds,
    placed_thresholds,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graftwork.loop import Feed
    from graftwork.prediction import Prediction
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

    def legend(self, values: Sequence[Any]) -> Sequence[tuple[str, str]]:
        """Name the colours in which `show` draws these values, the most frequent first: names and "#rrggbb"."""
        return ()

    def steps(self) -> BlockSteps:
        """Return the transforms this block needs."""
        return BlockSteps()

    def probe(self) -> Any:
        """Return a raw value encoded beside a prediction's inputs, to see what becomes of places in them; or None."""
        return None

    def locate(self, value: Any, probe: Any) -> Any:
        """Bring a prediction, decoded to this block, to its place in the raw input by what the probe became."""
        return value

    def _repr_html_(self) -> str:
        """Show the fields in a notebook."""
        from graftwork.markup import table

        rows = [(f.name, repr(getattr(self, f.name))) for f in fields(self)]  # type: ignore[arg-type]
        return table([("id", self.id), *rows], title=type(self).__name__)


class TargetBlock(Block):
    """Say what an encoded target asks of the model, the loss and the metrics.

    A `scaled` one is encoded in other units than people measure in; `measured` leads back to those. A `drawn` one is
    shown over the input, as a mask is, so that a target and a prediction need a picture each. One that `answers` makes
    single predictions of a single input itself.
    """

    scaled: ClassVar[bool] = False
    drawn: ClassVar[bool] = False
    answers: ClassVar[bool] = False

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

    def answer(self, feed: Feed, values: Mapping[str, Any]) -> Prediction:
        """Predict one thing from its inputs' raw values; only called of a block that `answers`.

        A mask does so for a picture of any size: `feed` has the plan, readies batches and runs the model on them.
        """
        raise NotImplementedError(f"{self.id} does not answer by itself")

    def measured(self, column: Tensor) -> Tensor:
        """Return encoded targets or activated outputs in the units metrics and `get_preds` speak of."""
        return column

    def probabilities(self, row: Tensor) -> dict[str, float] | None:
        """Name the probabilities in one row of activated outputs; None where there are none."""
        return None


def _titled(ax: Axes, text: str) -> None:
    old = ax.get_title()
    ax.set_title(f"{old}\n{text}" if old else text, fontsize=9)


@dataclass(frozen=True)
class CategoryBlock(Block):
    """Hold one label out of a few, a string or a number. A vocabulary not given is fitted on the training split."""

    id: ClassVar[str] = "core/category"
    vocab: tuple[Label, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice."""
        check_vocab(self.vocab, self.id)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no label of this block, or None."""
        reason = check_label(value)
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
        check_vocab(self.vocab, self.id)

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
    """Hold several labels out of a few, as a sequence. A vocabulary not given is fitted on the training split.

    A class is predicted whose probability is above the `threshold`: one for all, or by name, as in
    `{"cat": 0.3}` (0.5 for classes it does not name), or with a vocabulary one for each.
    """

    id: ClassVar[str] = "core/multi-category"
    vocab: tuple[Label, ...] | None = None
    threshold: float | tuple[float, ...] | NamedThresholds | Mapping[Any, float] = 0.5

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice, and thresholds that do not fit it."""
        check_vocab(self.vocab, self.id)
        threshold = self.threshold
        if isinstance(threshold, Mapping):
            threshold = tuple(threshold.items()) or 0.5
        for label, number in named_thresholds(threshold):
            if not 0 < number < 1:
                raise OptionError(f"{self.id}: threshold={number} of {label!r} is not between 0 and 1")
        if self.vocab is not None:
            threshold = placed_thresholds(threshold, self.vocab, self.id)
        if not named_thresholds(threshold):
            check_thresholds(cast("float | tuple[float, ...]", threshold), self.vocab, self.id)
        object.__setattr__(self, "threshold", threshold)

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

        assert not isinstance(self.threshold, Mapping)  # pairs by now
        return BlockSteps(closing=(MultiCategorize(vocab=self.vocab, threshold=self.threshold),))


@dataclass(frozen=True)
class MultiHotBlock(TargetBlock):
    """Hold one 0 or 1 per class of a fitted vocabulary; float32 (B, classes). Models give logits of the same shape."""

    id: ClassVar[str] = "core/multi-hot"
    vocab: tuple[Label, ...] = ()
    threshold: float | tuple[float, ...] = 0.5

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice, and thresholds that do not fit it."""
        check_vocab(self.vocab, self.id)
        check_thresholds(self.threshold, self.vocab, self.id)

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
        """Set the classes above their threshold to 1."""
        return (activated > torch.as_tensor(self.threshold, device=activated.device)).float()

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
