from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from graftwork.api import (
    ClassIndexBlock,
    ColSplitter,
    ColumnLoader,
    DataError,
    DataLoaders,
    EndSplitter,
    GroupSplitter,
    ItemError,
    MultiHotBlock,
    OptionError,
    StratifiedSplitter,
    TimeSplitter,
    UnknownName,
)
from graftwork_tabular import PackedRowBlock, TabularDataLoaders, infer_schema, read_table, table_loader
from graftwork_tabular.targets import ScaledNumbersBlock


def people(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(1000, 1000 + rows),
            "job": rng.choice(["baker", "clerk", "driver", None], rows),
            "age": rng.integers(18, 90, rows),
            "height": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(170, 10, rows)),
            "joined": pd.date_range("2015-01-01", periods=rows).astype(str),
            "rooms": rng.integers(1, 6, rows),
            "note": [f"text number {i} has quite a few different words in it" for i in range(rows)],
            "code": [f"x{i:05d}" for i in range(rows)],
            "planet": "earth",
            "void": None,
            "member": rng.random(rows) < 0.5,
            "paid": rng.choice(["no", "yes"], rows),
            "price": rng.normal(1000, 50, rows),
        }
    )


def kinds(frame: Any, **options: Any) -> dict[str, str]:
    return {c.name: c.kind for c in infer_schema(read_table(frame).table, **options).columns}


def test_columns_are_looked_at() -> None:
    assert kinds(people(), target=["paid"]) == {
        "id": "dropped",
        "job": "category",
        "age": "number",
        "height": "number",
        "joined": "date",
        "rooms": "category",
        "note": "dropped",
        "code": "dropped",
        "planet": "dropped",
        "void": "dropped",
        "member": "category",
        "price": "number",
    }


def test_the_reasons_are_said() -> None:
    lines = infer_schema(read_table(people()).table, target=["paid"]).lines()
    assert "left out planet: every value is 'earth'" in lines
    assert "left out void: every value is missing" in lines
    assert any(line.startswith("left out code: nearly every value is different (200 of 200)") for line in lines)
    assert any(line.startswith("left out note: sentences of 11 words") for line in lines)
    assert any(line.startswith("left out id: it counts the rows") for line in lines)


def test_what_is_named_is_taken_as_named() -> None:
    found = kinds(people(), target=["paid"], cat_names=["age", "code"], cont_names=["rooms"], drop=["job"])
    assert found["age"] == found["code"] == "category"
    assert found["rooms"] == "number"
    assert found["job"] == "dropped"
    with pytest.raises(UnknownName, match="'age'"):
        infer_schema(read_table(people()).table, cat_names=["agee"])
    with pytest.raises(OptionError, match="is the target"):
        infer_schema(read_table(people()).table, target=["paid"], cat_names=["paid"])
    with pytest.raises(OptionError, match="named as category and as number"):
        infer_schema(read_table(people()).table, cat_names=["age"], cont_names=["age"])
    with pytest.raises(DataError, match="no column is left"):
        infer_schema(read_table(pd.DataFrame({"y": [1, 2], "k": [3, 3]})).table, target=["y"])


def test_text_that_reads_as_numbers() -> None:
    frame = pd.DataFrame({"a": ["1", "2.5", "-3e2"] * 30, "b": (["1", "x", "3"] * 30), "y": [0, 1, 2] * 30})
    frame["c"] = [str(i) if i % 3 else "unknown" for i in range(90)]
    found = kinds(frame, target=["y"])
    assert found == {"a": "number", "b": "category", "c": "number"}


def test_a_column_of_lists_is_left_out() -> None:
    table = pa.table({"a": [[1], [2]], "b": [1.0, 2.0]})
    assert {c.name: c.kind for c in infer_schema(table).columns} == {"a": "dropped", "b": "number"}


# -- loaders ----------------------------------------------------------------------------------------------------------


def loaders(**options: Any) -> DataLoaders:
    options.setdefault("y_names", "paid")
    return TabularDataLoaders.from_df(people(), **options)


def column_loader(loader: Any) -> ColumnLoader:
    assert isinstance(loader, ColumnLoader)
    return loader


def test_a_frame_becomes_batches() -> None:
    data = loaders(bs=32)
    batch = data.one_batch()
    block = data.plan.fields["row"].final
    assert isinstance(block, PackedRowBlock)
    assert batch.x.shape == (32, len(block.names))
    assert batch.x.dtype == torch.float32
    assert batch.y.dtype == torch.int64
    assert data.plan.target == ClassIndexBlock(("no", "yes"))
    assert "job" in block.cat
    assert "height_na" in block.cat
    assert "joinedElapsed" in block.cont
    assert data.train.num_items == 160
    assert data.valid is not None
    assert data.valid.num_items == 40


def test_fastais_way_of_naming_columns() -> None:
    data = loaders(cat_names=["job"], cont_names=["age"])
    assert data.plan.fields["row"].final == PackedRowBlock(cat=("job",), sizes=(5,), cont=("age",))


def test_training_rows_alone_are_fitted() -> None:
    frame = people()
    frame.loc[190:, "job"] = "astronaut"
    frame.loc[190:, "age"] = 1e6
    data = TabularDataLoaders.from_df(
        frame, y_names="paid", splitter=EndSplitter(0.05), cat_names=["job"], cont_names=["age"]
    )
    train = column_loader(data.train).columns["row"]
    assert abs(float(train[:, 1].mean())) < 1e-5
    assert data.valid is not None
    held = column_loader(data.valid).columns["row"]
    assert held[:, 0].tolist() == [0] * 10


def test_every_split() -> None:
    for splitter in (
        EndSplitter(0.2),
        ColSplitter("member"),
        GroupSplitter("job"),
        TimeSplitter("joined"),
        StratifiedSplitter(),
    ):
        data = TabularDataLoaders.from_df(
            people().dropna(subset="job"), y_names="paid", splitter=splitter, drop=["member"]
        )
        assert data.valid is not None
        assert data.train.num_items + data.valid.num_items == len(people().dropna(subset="job"))
    data = loaders(valid_idx=[3, 5, 8])
    assert data.valid is not None
    assert column_loader(data.valid).positions.tolist() == [3, 5, 8]
    assert data.valid.item(5)["id"] == 1005
    with pytest.raises(OptionError, match="give one of them"):
        loaders(valid_idx=[3], splitter=EndSplitter(0.2))


def test_the_same_seed_gives_the_same_split() -> None:
    first, again, other = (column_loader(loaders(seed=s).train).positions for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first.sort().values, other.sort().values)


def test_rows_without_a_target_are_left_out_and_said() -> None:
    frame = people()
    frame["paid"] = frame["paid"].astype(object)
    frame.loc[:4, "paid"] = None
    data = TabularDataLoaders.from_df(frame, y_names="paid")
    assert any("left out 5 row(s) without a target" in note for note in data.notes)
    frame["paid"] = None
    with pytest.raises(DataError, match="missing in every row"):
        TabularDataLoaders.from_df(frame, y_names="paid", y_block="category")


@pytest.mark.parametrize(
    ("y_names", "said"),
    [
        ("piad", "did you mean 'paid'"),
        ("planet", "same in every row"),
        (["job", "paid"], "'job' holds large_string"),
    ],
    ids=["unknown", "constant", "two-categories"],
)
def test_targets_that_cannot_be(y_names: Any, said: str) -> None:
    with pytest.raises((DataError, UnknownName), match=said):
        TabularDataLoaders.from_df(people(), y_names=y_names)


def test_numbers_as_targets_are_scaled_and_measured() -> None:
    frame = people()
    data = TabularDataLoaders.from_df(frame, y_names="price")
    block = data.plan.target
    assert isinstance(block, ScaledNumbersBlock)
    loader = column_loader(data.train)
    actual = frame["price"].to_numpy()[loader.positions.numpy()]
    np.testing.assert_allclose(block.measured(loader.columns["y"]).numpy(), actual, rtol=1e-5)
    assert abs(float(loader.columns["y"].mean())) < 1e-5
    several = TabularDataLoaders.from_df(frame, y_names=["price", "age"])
    assert several.one_batch().y.shape == (64, 2)
    plain = TabularDataLoaders.from_df(frame, y_names="price", scale_target=False)
    np.testing.assert_allclose(column_loader(plain.train).columns["y"].mean(), frame["price"].mean(), rtol=0.01)


def test_integers_of_few_values_are_classes_unless_told() -> None:
    assert isinstance(loaders(y_names="rooms").plan.target, ClassIndexBlock)
    assert isinstance(loaders(y_names="rooms", y_block="number").plan.target, ScaledNumbersBlock)
    assert isinstance(loaders(y_names="age").plan.target, ScaledNumbersBlock)
    with pytest.raises(UnknownName, match="number"):
        loaders(y_names="rooms", y_block="nubmer")


def test_columns_of_0_and_1_are_labels() -> None:
    frame = people()
    frame["rich"], frame["old"] = (frame["price"] > 1000).astype(int), frame["age"] > 60
    data = TabularDataLoaders.from_df(frame, y_names=["rich", "old"])
    assert data.plan.target == MultiHotBlock(("rich", "old"))
    assert data.one_batch().y.shape == (64, 2)
    loader = column_loader(data.train)
    np.testing.assert_array_equal(
        loader.columns["y"].numpy(), frame[["rich", "old"]].to_numpy(float)[loader.positions.numpy()]
    )
    frame["old"] = 2
    with pytest.raises(DataError, match="same in every row"):
        TabularDataLoaders.from_df(frame, y_names=["rich", "old"], y_block="labels")


def test_a_target_that_float32_rounds_is_said() -> None:
    frame = people()
    frame["price"] = 16_777_217.0 + np.arange(len(frame))
    data = TabularDataLoaders.from_df(frame, y_names="price")
    assert any("float32 holds its values to 7 digits" in note for note in data.notes)
    frame.loc[0, "price"] = 1e300
    data = TabularDataLoaders.from_df(frame, y_names="price")
    assert any("beyond 3.4e38" in note for note in data.notes)
    assert data.train.num_items + (data.valid.num_items if data.valid else 0) == 199


def test_weights_and_sampling() -> None:
    frame = people()
    frame["w"] = np.arange(len(frame), dtype=float)
    data = TabularDataLoaders.from_df(frame, y_names="paid", weight_name="w")
    batch = data.one_batch()
    assert batch.weight is not None
    assert batch.weight.tolist() == batch.index.tolist()
    assert "w" not in data.plan.fields["row"].final.to_config()["cont"]
    few = frame[(frame["paid"] == "no") | (frame["id"] < 1030)]
    balanced = TabularDataLoaders.from_df(few, y_names="paid", sampling="balanced", bs=10_000)
    drawn = torch.cat([b.y for epoch in range(30) for b in balanced.train.at(epoch)])
    assert 0.45 < float((drawn == 1).float().mean()) < 0.55
    with pytest.raises(UnknownName, match="'w'"):
        TabularDataLoaders.from_df(frame, y_names="paid", weight_name="ww")
    with pytest.raises(OptionError, match="classes to balance"):
        TabularDataLoaders.from_df(frame, y_names="price", sampling="balanced")


# -- new rows ---------------------------------------------------------------------------------------------------------


def test_new_rows_are_encoded_by_value() -> None:
    frame = people()
    data = TabularDataLoaders.from_df(frame, y_names="paid", cat_names=["job", "rooms"], cont_names=["age", "height"])
    whole = column_loader(data.test_dl(frame)).columns["row"]
    shuffled = frame.sample(frac=1, random_state=0)
    shuffled["job"] = pd.Categorical(shuffled["job"], categories=["driver", "clerk", "baker"])
    again = column_loader(data.test_dl(shuffled)).columns["row"]
    assert torch.equal(again, whole[torch.from_numpy(shuffled.index.to_numpy(copy=True))])
    train = column_loader(data.train)
    assert torch.equal(whole[train.positions], train.columns["row"])


def test_one_new_row_in_every_form() -> None:
    frame = people()
    data = loaders(cat_names=["job"], cont_names=["age", "height"])
    row = {"job": "pilot", "age": 40, "height": None}
    as_frame = column_loader(data.test_dl(pd.DataFrame([row]))).columns["row"]
    as_rows = column_loader(data.test_dl([row])).columns["row"]
    single = column_loader(data.test_dl(row)).columns["row"]
    direct = torch.from_numpy(data.plan.encode({"row": row})["row"])[None]
    for other in (as_rows, single, direct):
        torch.testing.assert_close(other, as_frame)
    assert as_frame[0, 0] == 0
    with pytest.raises(ItemError, match="'height'"):
        data.test_dl(frame.drop(columns="height"))


def test_new_rows_with_labels() -> None:
    frame = people()
    frame["paid"] = frame["paid"].astype(object)
    data = TabularDataLoaders.from_df(frame, y_names="paid")
    frame.loc[7, "paid"] = None
    loader = column_loader(data.test_dl(frame, with_labels=True))
    assert loader.num_items == 199
    assert 7 not in loader.positions.tolist()
    frame.loc[9, "paid"] = "perhaps"
    with pytest.raises(DataError, match=re.escape("'perhaps' (row 10, and 0 more) does not occur")):
        data.test_dl(frame, with_labels=True)
    with pytest.raises(UnknownName, match="it is the target"):
        data.test_dl(frame.drop(columns="paid"), with_labels=True)


def test_a_class_that_only_validation_has() -> None:
    frame = people()
    frame.loc[199, "paid"] = "perhaps"
    with pytest.raises(DataError, match="'perhaps'"):
        TabularDataLoaders.from_df(frame, y_names="paid", splitter=EndSplitter(0.1))


def test_class_labels_of_every_type() -> None:
    for labels in ([1.0, 2.0], [True, False], ["a", "b"], [10, 20]):
        frame = pd.DataFrame({"x": np.arange(60.0), "y": labels * 30})
        data = TabularDataLoaders.from_df(frame, y_names="y", y_block="category")
        assert isinstance(data.plan.target, ClassIndexBlock)
        assert data.plan.target.vocab == tuple(sorted(labels))
        loader = column_loader(data.train)
        expected = [sorted(labels).index(labels[p % 2]) for p in loader.positions.tolist()]
        assert loader.columns["y"].tolist() == expected


def test_what_new_rows_had_to_say() -> None:
    data = loaders(cat_names=["job"], cont_names=["age"])
    notes: list[str] = []
    table_loader(data.plan, pd.DataFrame({"job": ["clerk"], "age": [np.inf]}), notes=notes)
    assert notes == ["column 'age': 1 infinite value(s) count as missing"]


def test_csv_and_parquet(tmp_path: Path) -> None:
    frame = people()
    frame.to_csv(tmp_path / "p.csv", sep=";", index=False)
    frame.to_parquet(tmp_path / "p.parquet")
    from_csv = TabularDataLoaders.from_csv(tmp_path / "p.csv", y_names="paid")
    from_parquet = TabularDataLoaders.from_parquet(tmp_path / "p.parquet", y_names="paid")
    assert any("separator is ';'" in note for note in from_csv.notes)
    torch.testing.assert_close(column_loader(from_csv.train).columns, column_loader(from_parquet.train).columns)


def test_explain_names_every_step() -> None:
    text = str(loaders().plan.explain())
    for word in ("ReadRow", "AddDateparts", "FillMissing", "Categorify", "Normalize", "PackRow", "Categorize"):
        assert word in text


def test_own_procs() -> None:
    from graftwork_tabular import Categorify, FillMissing, QuantileScale

    data = loaders(procs=[FillMissing("mean", add_flag=False), Categorify(min_freq=30), QuantileScale()])
    text = str(data.plan.explain())
    assert "QuantileScale" in text
    assert "AddDateparts" in text
    with pytest.raises(OptionError, match="add Categorify"):
        loaders(procs=[FillMissing()])
