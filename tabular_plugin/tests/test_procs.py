from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, ItemError, OptionError, UnknownName
from graftwork_tabular.blocks import PackedRowBlock, RowBlock
from graftwork_tabular.dates import AddDateparts, add_datepart, add_elapsed_times, to_moment, to_timestamps
from graftwork_tabular.procs import Categorify, FillMissing, PackRow, ReadRow, TableTransform
from graftwork_tabular.reading import table_from_rows
from graftwork_tabular.scaling import Normalize, QuantileScale, RobustScale
from graftwork_tabular.targets import ScaledNumbersBlock, ScaleTarget

BLOCK = RowBlock((("n", "number"), ("c", "category"), ("m", "number")))
Rows = list[dict[str, Any]]

numbers = st.one_of(st.none(), st.floats(-1e6, 1e6, allow_nan=False, width=32), st.integers(-1000, 1000))
rows = st.lists(
    st.fixed_dictionaries({"n": numbers, "c": st.sampled_from(["a", "b", "cc", "", None, "ü"]), "m": numbers}),
    min_size=2,
    max_size=30,
)


def columns_of(data: Rows, block: RowBlock = BLOCK) -> dict[str, Any]:
    table = pa.table(
        {n: pa.array([r[n] for r in data], pa.float64() if k == "number" else None) for n, k in block.columns}
    )
    return dict(ReadRow().encode_columns({n: table.column(n) for n in table.column_names}, block, []))


def run(
    procs: Sequence[TableTransform], data: Rows
) -> tuple[list[TableTransform], list[RowBlock], np.ndarray[Any, Any]]:
    """Fit procs one after another on all rows and encode them, column by column."""
    columns: Any = columns_of(data)
    block, fitted, blocks = BLOCK, [], [BLOCK]
    for proc in procs:
        done, columns = proc.fit_encode(columns, block, np.arange(len(data)))
        out = done.out_block(block)
        assert isinstance(out, RowBlock)
        block = out
        fitted.append(done)
        blocks.append(block)
    return fitted, blocks, PackRow().encode_columns(columns, block, [])["packed"]


SCALES = {
    "normalize": Normalize(),
    "robust": RobustScale(),
    "quantile": QuantileScale(num=9),
    "plain": RobustScale(False),
}


@settings(max_examples=40, deadline=None)
@given(rows, st.sampled_from(sorted(SCALES)))
def test_one_row_is_encoded_as_all_are(data: Rows, scale: str) -> None:
    fitted, blocks, whole = run([FillMissing(), Categorify(), SCALES[scale]], data)
    for i, row in enumerate(data):
        value = ReadRow().bind(BLOCK).encode(row, None)
        for proc, block in zip(fitted, blocks, strict=False):
            value = proc.bind(block).encode(value, None)
        packed = PackRow().bind(blocks[-1]).encode(value, None)
        np.testing.assert_allclose(packed, whole[i], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(rows, st.sampled_from(sorted(SCALES)), st.data())
def test_merged_parts_are_fitted_as_the_whole(data: Rows, scale: str, more: st.DataObject) -> None:
    cut = more.draw(st.integers(0, len(data)))
    parts = more.draw(st.permutations([data[:cut], data[cut:]]))
    for proc in (FillMissing(), FillMissing("mean"), FillMissing("mode"), Categorify(), SCALES[scale]):
        whole = proc.fitting(BLOCK)
        whole.update(columns_of(data))
        pieces = []
        for part in parts:
            piece = proc.fitting(BLOCK)
            if part:
                piece.update(columns_of(part))
            pieces.append(piece)
        pieces[0].merge(pieces[1])
        assert pieces[0].finish().to_config() == whole.finish().to_config()


@settings(max_examples=30, deadline=None)
@given(rows)
def test_fitted_procs_go_through_json(data: Rows) -> None:
    import json

    for proc in (FillMissing(), Categorify(), Normalize(), RobustScale(), QuantileScale(num=5)):
        fitted = proc.fit_columns(columns_of(data), BLOCK)
        again = type(proc).from_config(json.loads(json.dumps(fitted.to_config())))
        assert again.to_config() == fitted.to_config()
        assert not again.needs_fit


def test_fitting_row_by_row_is_the_same() -> None:
    data = [{"n": 1.0, "c": "a", "m": None}, {"n": 3.0, "c": "b", "m": 2.0}, {"n": None, "c": None, "m": 4.0}]
    read = [ReadRow().bind(BLOCK).encode(row, None) for row in data]
    for proc in (FillMissing(), Categorify(), Normalize()):
        assert proc.fit(read, BLOCK).to_config() == proc.fit_columns(columns_of(data), BLOCK).to_config()


def test_fill_missing_as_fastai() -> None:
    block = RowBlock((("a", "number"),))
    values = np.array([0, 1, np.nan, 1, 2, 3, 4])
    fitted = FillMissing().fit_columns({"a": values}, block)
    assert fitted.fills == (("a", 1.5, True),)
    out = fitted.encode_columns({"a": values}, block, [])
    assert out["a"].tolist() == [0, 1, 1.5, 1, 2, 3, 4]
    assert out["a_na"].tolist() == [False, False, True, False, False, False, False]
    assert fitted.out_block(block) == RowBlock((("a", "number"), ("a_na", "category")))


@pytest.mark.parametrize(("strategy", "fill"), [("median", 2.0), ("mean", 3.0), ("mode", 1.0), ("constant", -7.0)])
def test_what_fills(strategy: Any, fill: float) -> None:
    block = RowBlock((("a", "number"),))
    fitted = FillMissing(strategy, constant=-7.0).fit_columns({"a": np.array([1, 1, 2, 3, 8, np.nan])}, block)
    assert fitted.fills == (("a", fill, True),)


def test_a_value_first_missing_in_use_is_filled() -> None:
    block = RowBlock((("a", "number"),))
    fitted = FillMissing().fit_columns({"a": np.array([1.0, 2.0, 3.0])}, block)
    assert fitted.fills == (("a", 2.0, False),)
    assert fitted.bind(block).encode({"a": None}, None) == {"a": 2.0}
    assert fitted.bind(block).encode({"a": math.nan}, None) == {"a": 2.0}
    assert fitted.encode_columns({"a": np.array([np.nan])}, block, [])["a"].tolist() == [2.0]


def test_a_column_that_is_all_missing() -> None:
    block = RowBlock((("a", "number"),))
    columns = {"a": np.array([np.nan, np.nan])}
    for proc in (FillMissing(), FillMissing("mean"), FillMissing("mode")):
        assert proc.fit_columns(columns, block).fills == (("a", 0.0, True),)
    for proc in (Normalize(), RobustScale(), QuantileScale()):
        out = proc.fit_columns(columns, block).encode_columns({"a": np.array([5.0])}, block, [])
        assert np.isfinite(out["a"]).all()


def test_an_unknown_strategy() -> None:
    with pytest.raises(UnknownName, match="median"):
        FillMissing("medain")  # type: ignore[arg-type]


def test_categorify_as_fastai() -> None:
    block = RowBlock((("a", "category"),))
    column = pa.array([0, 1, 2, 3, 2])
    fitted, out = Categorify().fit_encode({"a": column}, block, np.array([0, 1, 2]))
    assert out["a"].tolist() == [1, 2, 3, 0, 3]
    assert fitted.out_block(block) == RowBlock((("a", "code", 5),))
    assert fitted.bind(block).encode({"a": 3}, None) == {"a": 0}
    assert fitted.bind(block).encode({"a": None}, None) == {"a": 4}
    assert fitted.bind(block).encode({"a": 2.0}, None) == {"a": 3}


def test_a_category_table_in_another_order_changes_nothing() -> None:
    block = RowBlock((("a", "category"),))
    first = pa.array(pd.Series(pd.Categorical(["a", "b", "c"], categories=["a", "b", "c"])))
    fitted = Categorify().fit_columns({"a": first}, block)
    other = pa.array(pd.Series(pd.Categorical(["c", "b"], categories=["c", "b"])))
    assert fitted.encode_columns({"a": other}, block, [])["a"].tolist() == [3, 2]


def test_values_of_validation_rows_are_not_in_the_vocabulary() -> None:
    block = RowBlock((("a", "category"),))
    column = pa.array(["a", "b", "a", "zzz_only_in_valid"])
    fitted, out = Categorify().fit_encode({"a": column}, block, np.array([0, 1, 2]))
    assert fitted.vocabs is not None
    assert fitted.vocabs["a"].values.to_pylist() == ["a", "b"]
    assert out["a"].tolist() == [1, 2, 1, 0]


def test_rare_values_count_as_unseen() -> None:
    block = RowBlock((("a", "category"),))
    column = pa.array(["a", "a", "a", "b", "b", "c", None])
    fitted = Categorify(min_freq=2).fit_columns({"a": column}, block)
    assert fitted.encode_columns({"a": column}, block, [])["a"].tolist() == [1, 1, 1, 2, 2, 0, 3]
    largest = Categorify(max_size=1).fit_columns({"a": column}, block)
    assert largest.encode_columns({"a": column}, block, [])["a"].tolist() == [1, 1, 1, 0, 0, 0, 2]


def test_categorify_decodes() -> None:
    block = RowBlock((("a", "category"), ("n", "number")))
    bound = Categorify().fit_columns({"a": pa.array(["x", "y"]), "n": np.ones(2)}, block).bind(block)
    assert bound.decode is not None
    assert bound.decode(bound.encode({"a": "y", "n": 1.0}, None)) == {"a": "y", "n": 1.0}


def test_normalize_has_mean_0_and_deviation_1() -> None:
    block = RowBlock((("a", "number"), ("b", "number")))
    columns = {"a": np.array([1.0, 2.0, 3.0, 6.0]), "b": np.full(4, 7.0)}
    fitted = Normalize().fit_columns(columns, block)
    out = fitted.encode_columns(columns, block, [])
    assert out["a"].mean() == pytest.approx(0)
    assert out["a"].std() == pytest.approx(1)
    assert out["b"].tolist() == [0, 0, 0, 0]
    bound = fitted.bind(block)
    assert bound.decode is not None
    assert bound.decode(bound.encode({"a": 6.0, "b": 7.0}, None)) == pytest.approx({"a": 6.0, "b": 7.0})


def test_quantile_scale_as_scikit_learn() -> None:
    from sklearn.preprocessing import QuantileTransformer

    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=700), np.zeros(300)])
    block = RowBlock((("a", "number"),))
    ours = QuantileScale(num=101).fit_columns({"a": values}, block).encode_columns({"a": values}, block, [])["a"]
    theirs = QuantileTransformer(n_quantiles=101, output_distribution="normal").fit_transform(values[:, None])[:, 0]
    inside = (np.abs(theirs) < 3) & (np.abs(ours) < 3)
    assert inside.sum() > 900
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-6)


def test_quantile_scale_gives_shared_values_the_middle_rank() -> None:
    block = RowBlock((("a", "number"),))
    values = np.concatenate([np.zeros(50), np.arange(1.0, 51.0)])
    ours = QuantileScale(num=101).fit_columns({"a": values}, block).encode_columns({"a": values}, block, [])["a"]
    assert ours[0] == pytest.approx(-0.6745, abs=0.02)
    assert (np.diff(ours[50:]) > 0).all()
    with pytest.raises(OptionError, match="at least 2"):
        QuantileScale(num=1)


def test_robust_scale_survives_outliers() -> None:
    block = RowBlock((("a", "number"),))
    values = np.array([0.0, 1.0, 2.0, 3.0, 1e9])
    out = RobustScale().fit_columns({"a": values}, block).encode_columns({"a": values}, block, [])["a"]
    assert out[2] == 0
    assert 2.9 < out[4] <= 3.0
    mostly = np.array([5.0] * 9 + [7.0])
    out = RobustScale(squeeze=False).fit_columns({"a": mostly}, block).encode_columns({"a": mostly}, block, [])["a"]
    assert out.tolist() == [0] * 9 + [2]


# -- reading and packing ----------------------------------------------------------------------------------------------


def test_a_row_may_be_a_series_and_have_more_columns() -> None:
    encode = ReadRow().bind(BLOCK).encode
    row = pd.Series({"extra": 1, "c": "a", "n": np.float32(2.5), "m": np.int64(3)})
    assert encode(row, None) == {"n": 2.5, "c": "a", "m": 3.0}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"n": 1, "c": "a"}, "'m'"),
        ({"n": "one", "c": "a", "m": 1}, "'one' is none"),
        ({"n": 1, "c": "a", "m": math.inf}, "infinite"),
        ({"n": [1], "c": "a", "m": 1}, "holds numbers"),
    ],
    ids=["absent", "text", "infinite", "list"],
)
def test_a_bad_row_is_named(row: Any, said: str) -> None:
    with pytest.raises(ItemError, match=said):
        ReadRow().bind(BLOCK).encode(row, None)


def test_bad_cells_of_a_table_are_counted_and_said() -> None:
    notes: list[str] = []
    columns = {
        "n": pa.array(["1", " 2.5 ", "x", None]),
        "c": pa.array(list("abcd")),
        "m": pa.array([1.0, math.inf, 2, 3]),
    }
    read = ReadRow().encode_columns(columns, BLOCK, notes)
    np.testing.assert_array_equal(read["n"], [1, 2.5, np.nan, np.nan])
    np.testing.assert_array_equal(read["m"], [1, np.nan, 2, 3])
    assert any("'n': 1 value(s) are no number" in note and "row 3" in note for note in notes)
    assert any("'m': 1 infinite" in note for note in notes)
    with pytest.raises(ItemError, match="'n'"):
        ReadRow().encode_columns({"N": columns["n"], "c": columns["c"], "m": columns["m"]}, BLOCK, [])


def test_packing_needs_codes_and_finite_numbers() -> None:
    with pytest.raises(OptionError, match="add Categorify"):
        PackRow().out_block(BLOCK)
    with pytest.raises(OptionError, match="add AddDateparts"):
        PackRow().out_block(RowBlock((("d", "date"),)))
    block = RowBlock((("a", "number"),))
    with pytest.raises(DataError, match="FillMissing"):
        PackRow().encode_columns({"a": np.array([1.0, np.nan])}, block, [])
    with pytest.raises(DataError, match="FillMissing"):
        PackRow().bind(block).encode({"a": math.nan}, None)
    with pytest.raises(DataError, match=r"3\.4e38"):
        PackRow().encode_columns({"a": np.array([1.0, 1e300])}, block, [])


def test_a_packed_row_splits_into_codes_and_numbers() -> None:
    block = PackedRowBlock(cat=("a", "b"), sizes=(3, 16_000_000), cont=("n",))
    codes, values = block.split(torch.tensor([[1.0, 15_999_999.0, 0.5]]))
    assert codes.tolist() == [[1, 15_999_999]]
    assert codes.dtype == torch.int32
    assert values.tolist() == [[0.5]]
    assert block.position("n") == 2
    with pytest.raises(UnknownName, match="'a'"):
        block.position("aa")
    with pytest.raises(OptionError, match="16,777,216"):
        PackedRowBlock(cat=("a",), sizes=(2**24 + 1,))


@pytest.mark.parametrize("block", [BLOCK, RowBlock((("d", "date"), ("k", "code", 4)))], ids=["plain", "codes"])
def test_invented_rows_pass_the_check(block: RowBlock) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        row = block.mock(rng)
        assert block.check(row) is None
        assert RowBlock.from_config(block.to_config()) == block
    assert "mapping" in str(block.check(3))
    assert "not in the row" in str(block.check({}))


# -- dates ------------------------------------------------------------------------------------------------------------

DATES = RowBlock((("saledate", "date"),))
moments = st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)).map(lambda d: d.replace(microsecond=0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), moments), min_size=1, max_size=20))
def test_dates_of_a_row_and_of_a_column_agree(values: list[datetime | None]) -> None:
    proc = AddDateparts(time=True)
    columns = proc.encode_columns({"saledate": pa.array(values, pa.timestamp("us"))}, DATES, [])
    for i, value in enumerate(values):
        row = proc.bind(DATES).encode({"saledate": value}, None)
        assert set(row) == set(columns) == {name for name, *_ in proc.out_block(DATES).columns}  # type: ignore[attr-defined]
        for name, part in row.items():
            np.testing.assert_equal(float(columns[name][i]), float(part), err_msg=name)


def test_date_parts_as_pandas() -> None:
    frame = pd.DataFrame({"saledate": pd.date_range("2019-12-20", periods=800, freq="13h"), "price": 1.0})
    out = add_datepart(frame, "saledate", time=True)
    when = frame["saledate"].dt
    assert "saledate" not in out
    assert list(out.columns[:3]) == ["price", "saleYear", "saleMonth"]
    for part in ("Year", "Month", "Day", "Dayofweek", "Dayofyear", "Hour", "Minute", "Second"):
        theirs = part.lower().replace("dayof", "day_of_")
        np.testing.assert_array_equal(out[f"sale{part}"], getattr(when, theirs), err_msg=part)
    np.testing.assert_array_equal(out["saleWeek"], when.isocalendar().week.to_numpy())
    for part in ("month_end", "month_start", "quarter_end", "quarter_start", "year_end", "year_start"):
        np.testing.assert_array_equal(out[f"saleIs_{part}"], getattr(when, f"is_{part}"), err_msg=part)
    np.testing.assert_array_equal(
        out["saleElapsed"], frame["saledate"].astype("int64") / {"ns": 1e9, "us": 1e6}[frame["saledate"].dt.unit]
    )
    assert len([c for c in add_datepart(frame, "saledate").columns if c.startswith("sale")]) == 13
    with pytest.raises(UnknownName, match="saledate"):
        add_datepart(frame, "saledat")


@pytest.mark.parametrize(
    "value",
    [
        "2020-02-29",
        "2020-02-29T00:00:00",
        date(2020, 2, 29),
        datetime(2020, 2, 29),
        np.datetime64("2020-02-29"),
        pd.Timestamp("2020-02-29"),
    ],
    ids=["text", "iso", "date", "datetime", "numpy", "pandas"],
)
def test_a_date_in_every_form(value: Any) -> None:
    assert to_moment(value, "d") == datetime(2020, 2, 29)


def test_what_is_no_date() -> None:
    assert to_moment(None, "d") is None
    assert to_moment(pd.NaT, "d") is None
    with pytest.raises(ItemError, match="'soon' is none"):
        to_moment("soon", "d")
    with pytest.raises(ItemError, match="3 is none"):
        to_moment(3, "d")
    notes: list[str] = []
    read = to_timestamps(pa.array(["2020-01-01", "31/12/2020", "soon", None]), "d", notes)
    assert read.null_count == 2
    assert read[1].as_py() == datetime(2020, 12, 31)
    assert any("1 value(s) are no date" in note and "soon" in note for note in notes)
    with pytest.raises(DataError, match="not one value"):
        to_timestamps(pa.array(["soon", "later"]), "d", [])
    with pytest.raises(DataError, match="no date"):
        to_timestamps(pa.array([1.5]), "d", [])


def test_elapsed_times() -> None:
    frame = pd.DataFrame(
        {
            "day": ["2020-01-04", "2020-01-01", "2020-01-02", "2020-01-01"],
            "shop": ["a", "a", "a", "b"],
            "promo": [False, True, False, False],
        }
    )
    out = add_elapsed_times(frame, ["promo"], "day", "shop")
    np.testing.assert_array_equal(out["Afterpromo"], [3, 0, 1, np.nan])
    np.testing.assert_array_equal(out["Beforepromo"], [np.nan, 0, np.nan, np.nan])
    np.testing.assert_array_equal(out["promo_bw"], [1, 1, 1, 0])
    np.testing.assert_array_equal(out["promo_fw"], [0, 1, 0, 0])
    assert list(frame.columns) == ["day", "shop", "promo"]


# -- targets ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=30), st.integers(1, 3))
def test_scaled_targets_come_back(values: list[float], outputs: int) -> None:
    from graftwork.api import RegressionBlock

    block = RegressionBlock(outputs)
    given_values = [v if outputs == 1 else [v + i for i in range(outputs)] for v in values]
    fitted = ScaleTarget().fit(given_values, block)
    out = fitted.out_block(block)
    assert isinstance(out, ScaledNumbersBlock)
    bound = fitted.bind(block)
    assert bound.decode is not None
    for value in given_values:
        np.testing.assert_allclose(bound.decode(bound.encode(value, None)), value, atol=1e-4)
    column = out.collate([bound.encode(v, None) for v in given_values])
    np.testing.assert_allclose(out.measured(column).numpy(), np.asarray(given_values), rtol=1e-3, atol=0.1)


def test_a_table_from_rows_keeps_mixed_values_as_text() -> None:
    assert table_from_rows([{"a": 1}, {"a": "x"}, {"a": 2.0}]).column("a").to_pylist() == ["1", "x", "2"]
