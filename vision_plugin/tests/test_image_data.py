"""ImageDataLoaders: labels, splits, sizes, broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from graftwork.api import DataError, ItemError, OptionError, UnknownName, parent_label
from graftwork_vision import Flip, ImageDataLoaders, ImageTensorBlock, RandomResizedCrop, Resize
from graftwork_vision.data import image_data_block
from graftwork_vision.sources import get_image_files


def items(loader) -> list[Path]:
    return [loader.item(i) for i in range(loader.num_items)]


def read_all(data) -> int:
    """Read both splits and count the pictures."""
    return sum(batch.size for loader in (data.train, data.valid) for batch in loader)


def final(data) -> ImageTensorBlock:
    return data.plan.fields["x"].final


class TestFolder:
    """Pictures labelled by their folder."""

    def test_a_share_of_every_class_is_held_out(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, bs=4, workers=0)
        assert data.plan.target.vocab == ("dark", "light")
        assert sorted(parent_label(p) for p in items(data.valid)) == ["dark"] * 2 + ["light"] * 2
        assert set(items(data.train)).isdisjoint(items(data.valid))
        assert data.train.num_items + data.valid.num_items == 20

    def test_the_seed_decides_the_split(self, two_classes):
        first, same, other = (
            items(ImageDataLoaders.from_folder(two_classes, seed=s, workers=0).valid) for s in (1, 1, 2)
        )
        assert first == same
        assert set(first) != set(other)

    def test_folders_of_their_own_are_the_split(self, tmp_path, make_classes):
        make_classes(tmp_path / "train", {"a": 4, "b": 4})
        make_classes(tmp_path / "valid", {"a": 2, "b": 2})
        data = ImageDataLoaders.from_folder(tmp_path, workers=0)
        assert (data.train.num_items, data.valid.num_items) == (8, 4)
        (tmp_path / "valid").rename(tmp_path / "held-out")
        data = ImageDataLoaders.from_folder(tmp_path, valid="held-out", workers=0)
        assert all("held-out" in p.parts for p in items(data.valid))

    def test_a_class_only_in_validation_is_named(self, tmp_path, make_classes):
        make_classes(tmp_path / "train", {"a": 4, "b": 4})
        make_classes(tmp_path / "valid", {"a": 2, "c": 2})
        with pytest.raises(DataError, match="'c' does not occur in the training split"):
            ImageDataLoaders.from_folder(tmp_path, workers=0)

    def test_one_class_is_not_enough(self, tmp_path, make_classes):
        make_classes(tmp_path, {"only": 6})
        with pytest.raises(DataError, match="only one class, 'only'"):
            ImageDataLoaders.from_folder(tmp_path, workers=0)

    def test_batches(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, bs=5, workers=2)
        batch = next(iter(data.valid))
        assert batch.x.shape == (4, 3, 16, 16)
        assert batch.x.dtype == torch.uint8
        labels = [data.plan.target.vocab[i] for i in batch.y]
        assert labels == [parent_label(data.valid.item(int(i))) for i in batch.index]
        dark = batch.y == 0
        assert batch.x[dark].float().mean() < 100 < batch.x[~dark].float().mean()


class TestOthers:
    """Names, functions and tables."""

    def test_names(self, two_classes):
        data = ImageDataLoaders.from_name_re(two_classes, r"^([a-z]+)_\d+\.png$", workers=0)
        assert data.plan.target.vocab == ("dark", "light")

    def test_a_pattern_that_matches_nothing_names_a_file(self, two_classes):
        with pytest.raises(ItemError, match=r"pattern '\^\(X\)' matches nothing in '(dark|light)_\d\.png'"):
            ImageDataLoaders.from_name_re(two_classes, "^(X)", workers=0)

    def test_a_function(self, two_classes):
        files = [p.relative_to(two_classes) for p in get_image_files(two_classes)]
        data = ImageDataLoaders.from_path_func(two_classes, files, lambda p: p.name[0], workers=0)
        assert data.plan.target.vocab == ("d", "l")

    def table(self, root: Path) -> pd.DataFrame:
        files = [str(p.relative_to(root)) for p in get_image_files(root)]
        return pd.DataFrame({"name": files, "label": [f.split("/")[0] for f in files]})

    def test_a_table(self, two_classes):
        table = self.table(two_classes)
        data = ImageDataLoaders.from_df(table, two_classes, workers=0)
        assert data.plan.target.vocab == ("dark", "light")
        assert next(iter(data.valid)).x.shape[1:] == (3, 16, 16)

    def test_a_table_with_a_split(self, two_classes):
        table = self.table(two_classes).assign(hold=lambda t: t.index % 5 == 0)
        data = ImageDataLoaders.from_df(table, two_classes, valid_col="hold", workers=0)
        assert data.valid.num_items == 4

    def test_columns_by_name(self, two_classes):
        table = self.table(two_classes)[["label", "name"]]
        data = ImageDataLoaders.from_df(table, two_classes, fn_col="name", label_col="label", workers=0)
        assert data.train.num_items == 16
        with pytest.raises(UnknownName, match=r"'labels'.*'label'"):
            ImageDataLoaders.from_df(table, two_classes, fn_col="name", label_col="labels", workers=0)

    def test_several_labels_each(self, two_classes):
        table = self.table(two_classes)
        table["label"] = [f"{label} {'even' if i % 2 else ''}".strip() for i, label in enumerate(table["label"])]
        data = ImageDataLoaders.from_df(table, two_classes, label_delim=" ", workers=0)
        assert data.plan.target.vocab == ("dark", "even", "light")
        assert next(iter(data.train)).y.shape == (16, 3)


class TestOptions:
    """What all recipes take."""

    def test_a_size(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, size=12, workers=0)
        assert final(data) == ImageTensorBlock(3, (12, 12), "standard")
        assert ImageDataLoaders.from_folder(two_classes, size=(8, 12), workers=0).one_batch().x.shape[2:] == (8, 12)

    def test_a_size_lets_large_jpegs_be_decoded_smaller(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, size=(8, 12), workers=0)
        assert data.plan.fields["x"].raw.shrink_to == 12
        data = ImageDataLoaders.from_folder(two_classes, item_tfms=RandomResizedCrop(8), workers=0)
        assert data.plan.fields["x"].raw.shrink_to is None

    def test_sizes_that_differ_need_a_size(self, two_classes):
        Image.new("RGB", (9, 9)).save(two_classes / "dark" / "small.png")
        data = ImageDataLoaders.from_folder(two_classes, bs=21, seed=7, workers=0)
        with pytest.raises(ItemError, match=r"cannot form one batch; .*Resize\(128\)"):
            read_all(data)
        assert read_all(ImageDataLoaders.from_folder(two_classes, size=8, workers=0)) == 21

    def test_a_size_twice(self, two_classes):
        with pytest.raises(OptionError, match="give one of them"):
            ImageDataLoaders.from_folder(two_classes, size=8, item_tfms=[Resize(9)])

    @pytest.mark.parametrize(("normalize", "scale"), [("imagenet", "standard"), ("fit", "standard"), ("none", "unit")])
    def test_normalising(self, two_classes, normalize, scale):
        data = ImageDataLoaders.from_folder(two_classes, normalize=normalize, batch_tfms=Flip(), workers=0)
        assert final(data).scale == scale
        fields = data.plan.encode_batch(dict(data.one_batch().fields))
        assert fields["x"].dtype == torch.float32
        if normalize == "fit":
            assert fields["x"].mean((0, 2, 3)).abs().max() < 0.2

    def test_grey(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, channels=1, workers=0)
        assert data.one_batch().x.shape[1] == 1

    def test_unknown_words(self, two_classes):
        with pytest.raises(UnknownName, match="'imagenet'"):
            ImageDataLoaders.from_folder(two_classes, normalize="image_net")
        with pytest.raises(UnknownName, match="unknown option 'batch_size'"):
            ImageDataLoaders.from_folder(two_classes, batch_size=3)

    def test_the_first_arguments_only_go_by_position(self, two_classes):
        with pytest.raises(TypeError):
            ImageDataLoaders.from_folder(two_classes, "train")

    def test_the_whole_split_may_be_kept_in_memory(self, two_classes):
        plain = ImageDataLoaders.from_folder(two_classes, workers=0)
        kept = ImageDataLoaders.from_folder(two_classes, cache="memory", workers=0)
        for a, b in zip(plain.train.at(3), kept.train.at(3), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.index, b.index)


class TestBroken:
    """A broken picture is left out, counted and listed, or stops everything."""

    @pytest.fixture
    def spoilt(self, two_classes) -> Path:
        whole = (two_classes / "dark" / "dark_0.png").read_bytes()
        (two_classes / "dark" / "half.png").write_bytes(whole[: len(whole) // 2])
        (two_classes / "light" / "zero.jpg").touch()
        (two_classes / "light" / "text.jpeg").write_text("not a picture")
        return two_classes

    def test_left_out_and_listed(self, spoilt):
        data = ImageDataLoaders.from_folder(spoilt, bs=4, workers=2)
        assert read_all(data) == 20
        listed = "\n".join(data.bad_items)
        assert len(data.bad_items) == 3
        for name, reason in (("half.png", "truncated"), ("zero.jpg", "empty"), ("text.jpeg", "not a picture")):
            assert any(name in line and reason in line for line in data.bad_items), listed

    def test_the_first_one_stops(self, spoilt):
        data = ImageDataLoaders.from_folder(spoilt, bs=4, workers=0, on_bad_item="error")
        with pytest.raises(ItemError, match=r"(half\.png|zero\.jpg|text\.jpeg)"):
            read_all(data)


def test_the_recipe_is_an_ordinary_datablock(two_classes):
    """What ImageDataLoaders does, a user can write."""
    from graftwork.api import CategoryBlock, DataBlock, StratifiedSplitter
    from graftwork_vision import ImageBlock, Normalize, imagenet_stats

    theirs = DataBlock(
        blocks=(ImageBlock(shrink_to=12), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=StratifiedSplitter(0.2, seed=42),
        item_tfms=Resize(12),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
    ).dataloaders(two_classes, workers=0)
    ours = ImageDataLoaders.from_folder(two_classes, size=12, workers=0)
    assert theirs.plan.explain() == ours.plan.explain()
    assert torch.equal(theirs.one_batch().x, ours.one_batch().x)


@pytest.mark.slow
def test_worker_processes_read_the_same(two_classes):
    threads = ImageDataLoaders.from_folder(two_classes, size=12, workers=2)
    processes = ImageDataLoaders.from_folder(two_classes, size=12, workers=1, worker_type="process")
    for a, b in zip(threads.train.at(1), processes.train.at(1), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


def test_summary_walks_to_the_end(two_classes, capsys):
    block = image_data_block(
        get_items=get_image_files, get_y=parent_label, splitter=_splitter(), item_tfms=[Resize(8)], normalize="fit"
    )
    block.summary(two_classes)
    text = capsys.readouterr().out.strip()
    assert text.endswith("Everything fits.")
    assert "tensor (4, 3, 8, 8) float32" in text


def _splitter():
    from graftwork.api import RandomSplitter

    return RandomSplitter(0.25, seed=1)


def test_a_batch_is_shown(two_classes):
    figure = ImageDataLoaders.from_folder(two_classes, size=12, batch_tfms=Flip(), workers=0).show_batch(max_n=4)
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 4
    assert {ax.get_title() for ax in drawn} <= {"dark", "light"}
    assert all(np.asarray(ax.images[0].get_array()).dtype == np.uint8 for ax in drawn)
