"""Bins of numbers: where they are cut, what they encode, how they travel."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.api import OptionError, UnknownName
from graftwork_tabular.bins import Bins, NumberBins, bins_of, fit_bins, read_bins, standard_bins

HALVES = Bins(edges=(0.0, 1.0, 3.0), means=(0.5, 0.5), stds=(0.5, 0.5))

columns = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300).map(lambda v: np.array(v, np.float32))


def encoded(bins: Bins, values: list[float]) -> list[list[float]]:
    """Encode without moving and scaling."""
    plain = Bins(edges=bins.edges, means=(0.0,) * len(bins.means), stds=bins.stds)
    found: list[list[float]] = NumberBins([plain], power=0.0)(torch.tensor(values)[:, None]).tolist()
    return found


class TestEdges:
    def test_few_values_are_all_told_apart(self):
        assert fit_bins(np.array([3, 1, 2, 2, 1], np.float32)).edges == (1, 2, 3)

    def test_many_values_are_cut_at_quantiles(self):
        column = np.arange(1000, dtype=np.float32)
        edges = fit_bins(column, max_values=100, max_bins=4).edges
        assert edges == pytest.approx((0, 250, 500, 750, 999), abs=2)

    def test_a_column_of_zeros_mostly_is_cut_where_it_is_not_zero(self):
        column = np.concatenate([np.zeros(9_000), np.random.default_rng(0).exponential(1, 1_000)]).astype(np.float32)
        edges = np.array(fit_bins(column, max_values=100, max_bins=32).edges)
        assert (edges > 0).sum() > 25

    def test_a_constant_column_has_a_bin_around_its_value(self):
        assert fit_bins(np.full(5, 7, np.float32)).edges == (6.5, 7.5)
        low, high = fit_bins(np.full(5, 3e9, np.float32)).edges
        assert low < 3e9 < high

    def test_values_that_float32_hardly_tells_apart_share_a_bin(self):
        column = np.array([1e6, np.nextafter(np.float32(1e6), np.float32(2e6)), 2e6], np.float32)
        assert fit_bins(column).edges == (1e6, 2e6)

    def test_an_outlier_takes_no_bins_from_the_others(self):
        column = np.array([*range(100), 1e9], np.float32)
        assert fit_bins(column).edges == (*range(100), 1e9)

    @given(columns)
    def test_any_column_has_bins_that_encode_it(self, column: np.ndarray):
        bins = fit_bins(column, max_values=20, max_bins=8)
        out = NumberBins([bins])(torch.from_numpy(column)[:, None])
        assert out.isfinite().all()
        assert len(bins.means) <= 20
        assert bins.edges[0] <= column.min() + 0.5

    @given(columns)
    def test_the_order_of_rows_does_not_count(self, column: np.ndarray):
        shuffled = np.random.default_rng(0).permutation(column)
        assert fit_bins(column).edges == fit_bins(shuffled).edges

    def test_more_columns_have_fewer_bins_each(self):
        numbers = torch.randn(1000, 300, generator=torch.Generator().manual_seed(0))
        found = bins_of([f"n{i}" for i in range(300)], numbers)
        assert sum(len(b["means"]) for b in found.values()) <= 2048

    def test_of_many_rows_some_are_enough(self):
        numbers = torch.arange(500_000.0)[:, None]
        edges = bins_of(("n",), numbers)["n"]["edges"]
        assert len(edges) == 33
        assert edges[16] == pytest.approx(250_000, rel=0.01)

    def test_no_columns_have_no_bins(self):
        assert bins_of((), torch.empty(5, 0)) == {}


class TestEncoding:
    def test_a_bin_is_passed_part_by_part(self):
        assert encoded(HALVES, [0, 0.25, 1, 2, 3]) == [[0, 0], [0.25, 0], [1, 0], [1, 0.5], [1, 1]]

    def test_beyond_the_outer_edges_it_goes_on_for_one_bin(self):
        assert encoded(HALVES, [-0.5, -9, 4, 99]) == [[-0.5, 0], [-1, 0], [1, 1.5], [1, 2]]

    def test_training_values_come_out_with_mean_zero(self):
        column = np.random.default_rng(0).exponential(1, 2000).astype(np.float32)
        out = NumberBins([fit_bins(column)])(torch.from_numpy(column)[:, None])
        assert out.mean(0).abs().max() < 1e-3

    def test_rare_bins_speak_louder(self):
        column = torch.cat([torch.zeros(990), torch.ones(10)])
        plain, loud = (NumberBins([fit_bins(column.numpy())], power=p)(column[:, None]).std() for p in (0.0, 0.4))
        assert loud > 2 * plain

    def test_columns_stand_side_by_side(self):
        both = NumberBins([HALVES, standard_bins(4)])
        x = torch.tensor([[0.5, -0.3], [2.0, 1.7]])
        expected = [NumberBins([HALVES])(x[:, :1]), NumberBins([standard_bins(4)])(x[:, 1:])]
        assert both.width == 6
        assert torch.equal(both(x), torch.cat(expected, 1))

    def test_no_columns_encode_to_nothing(self):
        assert NumberBins([])(torch.empty(3, 0)).shape == (3, 0)

    def test_normal_numbers_fill_the_standard_bins_alike(self):
        x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
        edges = torch.tensor(standard_bins(8).edges)
        counts = torch.histogram(x[:, 0].clamp(-3, 3), edges).hist
        assert counts.min() > 0.9 * counts.max()
        assert NumberBins([standard_bins(8)])(x).mean(0).abs().max() < 0.1


class TestOptions:
    def test_survive_json(self):
        found = bins_of(("a", "b"), torch.randn(500, 2))
        read = read_bins(("a", "b"), json.loads(json.dumps(found)))
        assert [b.to_config() for b in read] == list(found.values())

    def test_what_is_not_given_is_standard(self):
        assert read_bins(("a",), None) == [standard_bins()]

    def test_an_unknown_column_is_refused(self):
        with pytest.raises(UnknownName, match="number column 'c'"):
            read_bins(("a", "b"), {"c": HALVES.to_config()})

    @pytest.mark.parametrize(
        ("edges", "count"), [((0.0,), 0), ((1.0, 0.0), 1), ((0.0, 0.0), 1), ((0.0, 1.0), 2)], ids=str
    )
    def test_impossible_bins_are_refused(self, edges: tuple[float, ...], count: int):
        with pytest.raises(OptionError, match="bins"):
            Bins(edges=edges, means=(0.5,) * count, stds=(0.5,) * count)
