"""The distinct values of a column in order, how often each occurs, and every row's code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graftwork_tabular.canonical import Flags, aligned, missing_rows

__all__ = ["Codes", "Counts", "Factors", "arrow_codes", "arrow_factors"]

Codes = np.ndarray[tuple[int], np.dtype[np.int32]]
Counts = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Hold n sorted values (plain), their counts, and codes: 0 unseen, 1..n, n + 1 missing."""

    values: pa.Array
    counts: Counts
    num_missing: int
    codes: Codes

    def select(self, kept: Flags) -> Factors:
        """Return the same with some of the values only; the others become unseen."""
        if kept.all():
            return self
        table = np.zeros(len(kept) + 2, np.int32)
        table[1:-1][kept] = np.arange(1, int(kept.sum()) + 1)
        table[-1] = kept.sum() + 1
        values, counts = self.values.filter(pa.array(kept)), self.counts[kept]
        return Factors(values=values, counts=counts, num_missing=self.num_missing, codes=table[self.codes])


def arrow_factors(column: pa.ChunkedArray, train: Flags | None) -> Factors:
    """Factorize a plain column with Arrow's own hash tables: values and counts of the training rows, codes of all."""
    encoded = pa.chunked_array([column.combine_chunks()]).chunk(0).dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    index = pc.fill_null(encoded.indices, -1).to_numpy()
    counted = index if train is None else index[train]
    counts = np.bincount(counted[counted >= 0], minlength=len(order))[order].astype(np.int64)
    order, counts = order[counts > 0], counts[counts > 0]
    codes = np.zeros(len(encoded.dictionary) + 1, np.int32)
    codes[order] = np.arange(1, len(order) + 1)
    codes[-1] = len(order) + 1
    values = encoded.dictionary.take(pa.array(order))
    return Factors(values=values, counts=counts, num_missing=int((counted < 0).sum()), codes=codes[index])


def arrow_codes(values: pa.Array, column: pa.ChunkedArray) -> Codes:
    """Look a plain column up among plain values: 0 for what is not there, n + 1 for missing."""
    found = pc.index_in(aligned(column, values.type), value_set=values)
    codes: Codes = pc.fill_null(found, -1).to_numpy().astype(np.int32) + 1
    codes[missing_rows(column)] = len(values) + 1
    return codes
