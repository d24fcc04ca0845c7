"""What networks for text must beat: logistic regression on TF-IDF, and an interpolated n-gram model."""

from __future__ import annotations

import math
import warnings
from typing import Any, Final, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import Baseline, ClassIndexBlock, DataLoaders, Loader, Objective, OptionError, PlanError
from graftwork_text.loaders import BucketLoader
from graftwork_text.streams import StreamLoader

__all__ = ["NGram", "TfIdf"]

Numbers = NDArray[Any]

PAIRS: Final = 1 << 40


@final
class TfIdf(Baseline):
    """Predict by logistic regression on the weights of words and word pairs (sublinear TF-IDF, unit length).

    Words and pairs that occur in two texts of training or more count.
    """

    name = "tf-idf"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.grams: Numbers = np.zeros(0, np.int64)
        self.weigh: Any = None
        self.model: Any = None
        self.classes = 0

    def fit(self, data: DataLoaders) -> Self:
        """Fit on the training split; raise PlanError where there is not one text and a class to tell of it."""
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        block, loader = data.plan.target, data.train
        if not isinstance(block, ClassIndexBlock):
            raise PlanError(f"the baseline text/tf-idf tells classes, and the target is {block!r}")
        rows, grams = _grams(loader)
        texts_of, counts = np.unique(grams, return_counts=True)
        self.grams, self.classes = texts_of[counts >= 2], block.num_outputs
        self.weigh = TfidfTransformer(sublinear_tf=True)
        y = np.concatenate([batch.y.numpy() for batch in loader.in_order()])
        with warnings.catch_warnings():
            # A baseline that is not fully converged is still one; its limits keep it quick.
            warnings.simplefilter("ignore")
            x = self.weigh.fit_transform(self._matrix(rows, grams, loader.num_items - len(loader.bad_items)))
            self.model = LogisticRegression(C=10.0, max_iter=100).fit(x, y)
        return self

    def _matrix(self, rows: Numbers, grams: Numbers, count: int) -> Any:
        from scipy.sparse import csr_matrix

        at = np.searchsorted(self.grams, grams)
        known = self.grams[np.minimum(at, len(self.grams) - 1)] == grams
        ones = np.ones(int(known.sum()), np.float32)
        return csr_matrix((ones, (rows[known], at[known])), shape=(count, len(self.grams)))

    def predict(self, loader: Loader) -> Tensor:
        """Return probabilities (N, classes)."""
        if self.model is None:
            raise OptionError("the baseline text/tf-idf has not been fitted; call fit(data) first")
        rows, grams = _grams(loader)
        x = self.weigh.transform(self._matrix(rows, grams, loader.num_items - len(loader.bad_items)))
        whole = np.zeros((x.shape[0], self.classes), np.float32)
        whole[:, self.model.classes_.astype(np.int64)] = self.model.predict_proba(x)
        return torch.from_numpy(whole)


def _grams(loader: Loader) -> tuple[Numbers, Numbers]:
    """Return the words and pairs of all texts, as numbers, with each one's row; special tokens are words as well."""
    if isinstance(loader, BucketLoader):
        ids, lengths = loader.texts.ids.astype(np.int64), loader.texts.lengths
    else:
        block = loader.plan.fields[loader.plan.inputs[0]].final
        kept = [row for batch in loader.in_order() for row in block.uncollate(batch.x)]
        ids, lengths = torch.cat(kept).numpy(), np.array([len(row) for row in kept])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    together = rows[1:] == rows[:-1]
    pairs = (ids[:-1] * PAIRS + ids[1:] + PAIRS)[together]
    return np.concatenate([rows, rows[1:][together]]), np.concatenate([ids, pairs])


@final
class NGram(Baseline):
    """Predict the next token from the two before: counts of one, two and three in a row, interpolated.

    Absolute discounting by 0.75 (Ney, Essen & Kneser 1994). For each token to be told it gives a distribution over the
    vocabulary of which only the told one's share is computed; see `log_likelihood`.
    """

    name = "n-gram"
    discount: Final = 0.75

    def __init__(self) -> None:
        """Know nothing yet."""
        self.size = 0
        self.tables: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []
        self.single: Numbers = np.zeros(0)

    def fit(self, data: DataLoaders) -> Self:
        """Count the training texts; raise PlanError unless they are read by streams."""
        if not isinstance(data.train, StreamLoader):
            raise PlanError("the baseline text/n-gram reads the texts of a language model (is_lm=True)")
        return self.count(data.train.texts.ids, data.plan.target.num_outputs)

    def count(self, ids: Numbers, size: int) -> Self:
        """Count one row of ids below `size`."""
        ids = ids.astype(np.int64)
        self.size, self.tables = size, []
        counts = np.bincount(ids, minlength=size).astype(np.float64)
        kinds = int((counts > 0).sum())
        kept = np.maximum(counts - self.discount, 0) / counts.sum()
        self.single = kept + self.discount * kinds / counts.sum() / size
        for order in (2, 3):
            before = _contexts(ids, order, size)
            grams, gram_counts = np.unique(before * size + ids[order - 1 :], return_counts=True)
            owners, first, kinds_of = np.unique(grams // size, return_index=True, return_counts=True)
            totals = np.add.reduceat(gram_counts, first)
            self.tables.append((grams, gram_counts, owners, np.stack([totals, kinds_of])))
        return self

    def log_likelihood(self, ids: Numbers) -> Numbers:
        """Return the logarithm of each token's probability after those before it, for all but the first token."""
        if not self.tables:
            raise OptionError("the baseline text/n-gram has not been fitted; call fit(data) first")
        ids = ids.astype(np.int64)
        chance = self.single[ids].copy()
        for order, (grams, counts, owners, sums) in zip((2, 3), self.tables, strict=True):
            before = _contexts(ids, order, self.size)
            seen = _looked_up(grams, counts, before * self.size + ids[order - 1 :])
            at = np.minimum(np.searchsorted(owners, before), len(owners) - 1)
            known = owners[at] == before
            total, kinds = np.where(known, sums[0][at], 1), np.where(known, sums[1][at], 0)
            rest = np.where(known, self.discount * kinds / total, 1.0)
            chance[order - 1 :] = np.maximum(seen - self.discount, 0) / total + rest * chance[order - 1 :]
        return np.log(chance[1:])

    def predict(self, loader: Loader) -> Tensor:
        """Refuse: distributions over a whole vocabulary for every token do not fit into memory; see `measure`."""
        raise OptionError("the baseline text/n-gram tells likelihoods, log_likelihood(ids), and no whole distributions")

    def measure(self, loader: Loader, objective: Objective) -> dict[str, float]:
        """Return perplexity, and bits per byte, on the very tokens that a model is asked for."""
        if not isinstance(loader, StreamLoader):
            raise PlanError("the baseline text/n-gram reads the texts of a language model (is_lm=True)")
        mean = -float(self.log_likelihood(loader.texts.ids[: loader.num_tokens + 1]).mean())
        found = {"perplexity": math.exp(mean), "bits_per_byte": mean / math.log(2) / loader.bytes_per_token}
        return {name: found[name] for name in objective.higher_is_better if name in found}


def _contexts(ids: Numbers, order: int, size: int) -> Numbers:
    """Return the tokens before each token as one number, from the first that has enough of them."""
    before = ids[: len(ids) - order + 1]
    for back in range(1, order - 1):
        before = before * size + ids[back : len(ids) - order + 1 + back]
    return before


def _looked_up(keys: Numbers, values: Numbers, wanted: Numbers) -> Numbers:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: Numbers = np.where(keys[at] == wanted, values[at], 0)
    return found
