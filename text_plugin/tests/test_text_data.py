"""From files to batches: reading, splitting, length buckets, streams; and what bad input gets."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, OptionError, Part, Plan, UnknownName
from graftwork_text import NextTextBlock, StreamLoader, TextBlock, TextDataLoaders, read_texts, text_steps
from graftwork_text.bulk import Packed
from graftwork_text.cache import lines_of
from graftwork_text.data import classes_loader
from graftwork_text.loaders import BucketLoader
from graftwork_text.reading import Texts

GOOD, BAD = "a good film, I liked it", "a bad film; I left early"
ROWS = [{"text": GOOD if i % 2 else BAD, "label": "pos" if i % 2 else "neg"} for i in range(40)]


def packed(lengths: list[int]) -> Packed:
    return Packed(ids=np.arange(sum(lengths), dtype=np.int32), ends=np.cumsum(lengths).astype(np.int64))


@pytest.fixture(scope="module")
def data():
    return TextDataLoaders.from_df(pd.DataFrame(ROWS), min_freq=1, bs=4)


@pytest.fixture(scope="module")
def stream_plan() -> Plan:
    return TextDataLoaders.from_texts([GOOD] * 10, is_lm=True, min_freq=1).plan


class TestPacked:
    """Texts one after another."""

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.data())
    def test_take_gives_those_texts(self, lengths, drawn):
        texts = packed(lengths)
        rows = drawn.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
        taken = texts.take(np.array(rows))
        assert [taken.text(i).tolist() for i in range(len(rows))] == [texts.text(i).tolist() for i in rows]

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 7))
    def test_cut_keeps_the_beginnings(self, lengths, limit):
        texts = packed(lengths)
        short, count = texts.cut(limit)
        assert [short.text(i).tolist() for i in range(len(lengths))] == [
            texts.text(i)[:limit].tolist() for i in range(len(lengths))
        ]
        assert count == sum(length > limit for length in lengths)


class TestStreams:
    """The loader of language models."""

    def test_fastais_golden_batches(self, stream_plan):
        loader = StreamLoader(packed([5, 6, 4, 5, 3]), stream_plan, bs=4, seq_len=3)
        batches = list(loader)
        assert batches[0].x.tolist() == [[0, 1, 2], [5, 6, 7], [10, 11, 12], [15, 16, 17]]
        assert batches[0].y.tolist() == [[1, 2, 3], [6, 7, 8], [11, 12, 13], [16, 17, 18]]
        assert batches[1].x.shape == (4, 2)
        assert len(loader) == len(batches) == 2
        assert [batch.follows for batch in batches] == [False, True]
        assert [batch.counts for batch in batches] == [12, 8]

    @settings(max_examples=60)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 6), st.integers(1, 7), st.booleans())
    def test_each_token_is_told_once_and_after_the_one_before(self, lengths, bs, seq_len, shuffle):
        texts = packed([2, *lengths])
        plan = Plan({"x": TextBlock()}, inputs=("x",), targets=("y",), item_steps=(), batch_steps=())
        loader = StreamLoader(texts, plan, bs=bs, seq_len=seq_len, shuffle=shuffle, training=shuffle)
        x = torch.cat([b.fields["x"] for b in loader.at(1)], 1)
        y = torch.cat([b.fields["y"] for b in loader.at(1)], 1)
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert y.numel() == loader.num_tokens
        assert len(set(y.flatten().tolist())) == y.numel()
        assert len(texts.ids) - 1 - y.numel() < loader.streams

    def test_entered_anywhere(self, stream_plan):
        loader = StreamLoader(packed([20, 30, 25]), stream_plan, bs=3, seq_len=4, shuffle=True, training=True)
        whole = [b.x for b in loader.at(2)]
        for start in range(len(loader)):
            assert all(map(torch.equal, [b.x for b in loader.at(2, start)], whole[start:]))

    def test_texts_come_in_another_order_each_epoch(self, stream_plan):
        loader = StreamLoader(packed([5] * 20), stream_plan, bs=2, seq_len=9, shuffle=True, training=True)
        assert not torch.equal(next(loader.at(0)).x, next(loader.at(1)).x)
        assert torch.equal(next(loader.at(1)).x, next(loader.at(1)).x)

    def test_parts_together_are_the_whole(self, stream_plan):
        loader = StreamLoader(packed([50]), stream_plan, bs=5, seq_len=4)
        parts = [list(loader.at(0, part=Part(rank=r, world=2))) for r in range(2)]
        for whole, *mine in zip(loader, *parts, strict=True):
            assert torch.equal(torch.cat([b.x for b in mine]), whole.x)
            assert sum(b.share for b in mine) == pytest.approx(2)

    def test_a_single_token_is_no_text_to_learn_from(self, stream_plan):
        with pytest.raises(DataError, match="two tokens"):
            StreamLoader(packed([1]), stream_plan)


class TestBuckets:
    """The loader of classifiers."""

    @settings(max_examples=40)
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 7), st.booleans())
    def test_each_text_once_and_filled_up_only_on_the_right(self, lengths, bs, shuffle):
        texts = packed(lengths)
        texts = Packed(ids=texts.ids + 2, ends=texts.ends)
        plan = Plan({"x": TextBlock()}, inputs=("x",), targets=(), item_steps=(), batch_steps=())
        loader = BucketLoader(texts, plan, pad_id=1, bs=bs, shuffle=shuffle)
        seen = {}
        for batch in loader.at(3):
            assert batch.fields["x"].shape[1] == max(lengths[i] for i in batch.index.tolist())
            for i, row in zip(batch.index.tolist(), batch.fields["x"], strict=True):
                seen[i] = row[row != 1].tolist()
                assert row[: lengths[i]].tolist() == seen[i]
        assert seen == {i: texts.text(i).tolist() for i in range(len(lengths))}

    def test_the_longest_batch_comes_first(self):
        lengths = np.random.default_rng(0).integers(1, 500, 1000).tolist()
        plan = Plan({"x": TextBlock()}, inputs=("x",), targets=(), item_steps=(), batch_steps=())
        loader = BucketLoader(packed(lengths), plan, pad_id=1, bs=8, shuffle=True, training=True)
        for epoch in range(3):
            widths = [batch.fields["x"].shape[1] for batch in loader.at(epoch)]
            assert widths[0] == max(lengths)
            assert widths != sorted(widths, reverse=True)
            assert sum(8 * w for w in widths) < 1.2 * sum(lengths)

    def test_loaders_give_what_the_plan_gives(self, data):
        for batch in data.train.at(0):
            for row, label, position in zip(batch.x, batch.y, batch.index.tolist(), strict=True):
                sample = data.plan.encode({"text": ROWS[position]["text"], "label": ROWS[position]["label"]})
                assert torch.equal(row[: len(sample["text"])], sample["text"])
                assert int(label) == sample["label"]

    def test_in_order(self, data):
        index = torch.cat([batch.index for batch in data.train.in_order()])
        assert torch.equal(index, data.train.positions)


class TestReading:
    """Sources, and what is wrong with them."""

    def test_csv_parquet_and_frame_say_the_same(self, tmp_path):
        frame = pd.DataFrame(ROWS)
        frame.to_csv(tmp_path / "a.csv", index=False)
        frame.to_csv(tmp_path / "a.csv.gz", index=False)
        frame.to_parquet(tmp_path / "a.parquet")
        found = [read_texts(tmp_path / n) for n in ("a.csv", "a.csv.gz", "a.parquet")]
        for each in (*found, read_texts(frame), read_texts(ROWS)):
            assert list(each.texts) == [row["text"] for row in ROWS]
            assert list(each.labels) == [row["label"] for row in ROWS]

    def test_line_breaks_and_commas_inside_of_a_text(self, tmp_path):
        pd.DataFrame({"text": ['a "b",\nc', "d"], "y": [0, 1]}).to_csv(tmp_path / "a.csv", index=False)
        assert list(read_texts(tmp_path / "a.csv").texts) == ['a "b",\nc', "d"]

    def test_a_folder_a_label(self, tmp_path):
        for part, label, n in (("train", "neg", 3), ("train", "pos", 3), ("test", "neg", 1), ("test", "pos", 1)):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for i in range(n):
                (folder / f"{i}.txt").write_text(f"{label} {i}", encoding="utf-8")
        found = read_texts(tmp_path)
        assert sorted(set(found.labels)) == ["neg", "pos"]
        assert found.valid.sum() == 2
        data = TextDataLoaders.from_folder(tmp_path, min_freq=1)
        assert (data.train.num_items, data.valid.num_items) == (6, 2)

    def test_the_split_the_table_names(self):
        rows = [{**row, "split": "valid" if i >= 30 else "train"} for i, row in enumerate(ROWS)]
        data = TextDataLoaders.from_df(rows, min_freq=1)
        assert sorted(data.valid.positions.tolist()) == list(range(30, 40))

    def test_missing_texts_and_labels_are_left_out_and_said(self):
        rows = [*ROWS, {"text": None, "label": "pos"}, {"text": "x", "label": None}, {"text": "  ", "label": "neg"}]
        found = read_texts(rows)
        assert (len(found), found.left_out) == (41, 2)
        assert "1 row(s) without a text, the first is row 41" in found.warnings[0]
        assert "1 text(s) are empty" in found.warnings[2]
        assert TextDataLoaders.from_df(rows, min_freq=1).notes

    def test_broken_encoding_names_the_byte(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_bytes(b"text,label\ncaf\xe9,1\nb,0\n")
        with pytest.raises(DataError, match=r"byte 14 is 0xe9.*--encoding latin-1"):
            read_texts(path)
        assert read_texts(path, encoding="latin-1").texts[0] == "café"
        assert read_texts(path, errors="replace").texts[0] == "caf\ufffd"

    def test_of_a_file_of_any_size_too(self, tmp_path):
        path = tmp_path / "lines.txt"
        path.write_bytes(b"\xef\xbb\xbfone line\n" + "na\u00efve \U0001f600\n".encode() * 100_000 + b"caf\xe9\n")
        with pytest.raises(DataError, match=r"byte 1200015 is 0xe9.*--encoding latin-1") as found:
            list(lines_of(path))
        place = int(str(found.value).partition(": byte ")[2].split()[0])
        assert path.read_bytes()[place] == 0xE9
        assert next(lines_of(path, errors="replace")) == "one line\n"
        (tmp_path / "lines.txt.gz").write_bytes(gzip.compress(b"a\n\nb"))
        assert list(lines_of(tmp_path / "lines.txt.gz")) == ["a\n", "b"]
        for wrong in ({"encoding": "latin-99"}, {"errors": "sloppy"}):
            with pytest.raises(OptionError, match="unknown"):
                list(lines_of(path, **wrong))

    def test_an_empty_cell_is_missing_and_an_empty_string_is_not(self, tmp_path):
        (tmp_path / "a.csv").write_text('text,label\na good one,pos\n,pos\n"",neg\nbad,\n', encoding="utf-8")
        found = read_texts(tmp_path / "a.csv")
        assert (list(found.texts), list(found.labels)) == (["a good one", ""], ["pos", "neg"])
        assert found.warnings[:2] == (
            "left out 1 row(s) without a text, the first is row 2",
            "left out 1 row(s) without a label, the first is row 4",
        )

    def test_a_damaged_archive(self, tmp_path):
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\n" * 100)[:30])
        with pytest.raises(DataError, match="cannot be read"):
            read_texts(tmp_path / "a.csv.gz")

    @pytest.mark.parametrize(
        ("options", "error", "said"),
        [
            ({"text_col": "txt"}, UnknownName, "did you mean 'text'"),
            ({"target": "lable"}, UnknownName, "did you mean 'label'"),
            ({"split_col": "odd"}, DataError, "must say train or valid"),
        ],
    )
    def test_wrong_columns(self, options, error, said):
        with pytest.raises(error, match=said):
            read_texts([{**row, "odd": i} for i, row in enumerate(ROWS)], **options)

    def test_no_column_of_text(self):
        with pytest.raises(OptionError, match="no column holds text"):
            read_texts([{"a": 1, "b": 2}])


class TestBadInput:
    """What cannot be learned from, and what can after all."""

    def test_one_class_only(self):
        with pytest.raises(DataError, match="only one class"):
            TextDataLoaders.from_texts(["a", "b", "c", "d", "e"], ["x"] * 5, valid_pct=0)

    def test_a_label_training_never_saw(self):
        found = Texts(texts=["a"] * 5, labels=["p", "n", "p", "n", "odd"], valid=np.array([False] * 4 + [True]))
        from graftwork_text.data import from_texts

        with pytest.raises(DataError, match="'odd'"):
            from_texts(found, min_freq=1)

    def test_an_unknown_label_in_new_texts_is_left_out(self, data):
        loader = classes_loader(data.plan, Texts(texts=[GOOD, BAD], labels=["pos", "odd"]))
        assert list(loader.bad_items) == [1]
        assert [batch.index.tolist() for batch in loader] == [[0]]

    def test_texts_too_long_are_cut_off_and_counted(self):
        data = TextDataLoaders.from_texts([GOOD, BAD] * 10, [1, 0] * 10, min_freq=1, max_length=3)
        assert data.notes == ("cut 20 text(s) off after 3 tokens",)
        assert data.one_batch().x.shape[1] == 3
        assert len(data.plan.encode({"text": GOOD})["text"]) == 3

    def test_empty_texts_are_texts(self):
        data = TextDataLoaders.from_texts(["", " ", GOOD, BAD] * 5, [0, 1] * 10, min_freq=1, bs=20)
        assert data.one_batch().x.min() >= 0
        assert data.plan.encode({"text": ""})["text"].tolist() == [2]

    def test_a_vocabulary_of_nothing_but_the_special_tokens(self):
        data = TextDataLoaders.from_texts(["a", "b"] * 5, [0, 1] * 5, min_freq=100)
        assert data.plan.fields["text"].final.vocab_size == 16

    def test_a_vocabulary_that_lacks_what_is_needed(self):
        for vocab, lacking in (([], "'xxunk', 'xxpad'"), (["xxunk", "a"], "'xxpad'")):
            with pytest.raises(DataError, match=f"{len(vocab)} tokens lacks {lacking}"):
                TextDataLoaders.from_texts(["a", "b"] * 5, [0, 1] * 5, vocab=vocab)
        data = TextDataLoaders.from_texts(["a", "b"] * 5, [0, 1] * 5, vocab=["xxunk", "xxpad"])
        assert data.one_batch().x.unique().tolist() == [0]
        with pytest.raises(OptionError, match="min_freq=0"):
            TextDataLoaders.from_texts(["a", "b"] * 5, [0, 1] * 5, min_freq=0)

    def test_a_single_huge_text_does_not_fill_the_memory(self):
        huge = "so good " * 15_000
        data = TextDataLoaders.from_texts([huge, BAD] * 5, [0, 1] * 5, min_freq=1)
        assert data.notes == ("cut 5 text(s) off after 20000 tokens",)
        assert TextDataLoaders.from_texts([huge, BAD] * 5, is_lm=True, min_freq=1).notes == ()

    @pytest.mark.parametrize("tokenizer", ["words", "bpe", "unigram", "characters"])
    def test_half_a_surrogate_pair(self, tokenizer):
        text = "so \ud800 good \U0001f600"
        data = TextDataLoaders.from_texts([text, "a bad one"] * 5, [0, 1] * 5, min_freq=1, tokenizer=tokenizer)
        words, ids = text_steps(data.plan)
        assert len(words.made.spans(text)) == len(words.made.tokens(text))
        assert ids.bind(words.out_block(TextBlock())).encode(words.made.tokens(text), None).min() >= 0

    def test_not_as_many_labels_as_texts(self):
        with pytest.raises(DataError, match="2 texts have 1 labels"):
            TextDataLoaders.from_texts(["a", "b"], [1])

    def test_a_number_is_no_text(self):
        with pytest.raises(DataError, match="is no text but a int"):
            TextDataLoaders.from_texts(["a", 3], [0, 1])


class TestBlocks:
    """What blocks promise."""

    def test_json_there_and_back(self, data):
        import json

        from graftwork.api import get_host

        host = get_host()
        config = json.loads(json.dumps(data.plan.to_config()))
        plan = Plan.from_config(config, block=host.blocks.get, transform=host.transforms.get)
        assert torch.equal(plan.encode({"text": GOOD})["text"], data.plan.encode({"text": GOOD})["text"])
        words, block = plan.decode("text", plan.encode({"text": GOOD})["text"])
        assert words == ("xxbos", "a", "good", "film", ",", "i", "liked", "it")
        assert block.check(words) is None

    def test_the_next_token(self):
        from graftwork import DataBlock

        blocks = {"x": TextBlock(min_freq=1), "y": NextTextBlock(min_freq=1)}
        getters = {"x": str, "y": str}
        data = DataBlock(blocks=blocks, getters=getters).dataloaders([GOOD] * 10, bs=2)
        batch = data.one_batch()
        assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])
        assert batch.y[:, -1].tolist() == [-100, -100]

    def test_a_missing_text_is_refused_by_its_step(self, data):
        from graftwork.api import ItemError

        with pytest.raises(ItemError, match="the text is missing"):
            data.plan.encode({"text": None})
