"""The bridge to torchtext. `make test-torchtext` runs all of this where torchtext works; elsewhere it says why not."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from graftwork import DataBlock, RandomSplitter
from graftwork.api import CategoryBlock, DataError, OptionError, UnknownName
from graftwork_text.blocks import TextBlock
from graftwork_text.tokenizers import WordTokenizer, as_tokenizer
from graftwork_text.torchtext_files import read_torchtext


def works() -> bool:
    try:
        return bool(version("torchtext")) and version("torch").startswith("2.3.")
    except PackageNotFoundError:
        return False


if works():
    # It imports torchtext without its farewell, which would be an error here.
    import graftwork_text.torchtext_bridge  # noqa: F401

there = pytest.mark.skipif(not works(), reason="needs torch 2.3 and torchtext; make test-torchtext has them")
TEXTS = [("You can now install it.", "a"), ("It's good, isn't it?", "b")] * 10


@pytest.mark.skipif(works(), reason="torchtext works here")
def test_elsewhere_the_import_says_why_in_one_line() -> None:
    for code in (
        "import graftwork_text.torchtext_bridge",
        "from graftwork_text import as_tokenizer; as_tokenizer('torchtext')",
    ):
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        last = ran.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: torchtext")
        assert "torch 2.3" in last
        assert f"torch {version('torch')}" in last
        assert "pip install 'graftwork-text[torchtext]'" in last


@there
def test_its_tokenizers_cut_as_they_do() -> None:
    made = as_tokenizer("torchtext")
    from torchtext.data.utils import get_tokenizer

    for text, _ in TEXTS[:2]:
        assert list(made.tokens(text)) == get_tokenizer("basic_english")(text)
        for token, (start, end) in zip(made.tokens(text), made.spans(text), strict=True):
            assert text[start:end].lower() == token
    assert as_tokenizer(made.to_json()).tokens(TEXTS[0][0]) == made.tokens(TEXTS[0][0])
    with pytest.raises(OptionError, match="basic_english"):
        type(made)("nonsense")


@there
def test_its_vocabulary_gives_the_ids() -> None:
    from torchtext.data.utils import get_tokenizer
    from torchtext.vocab import build_vocab_from_iterator

    from graftwork_text.torchtext_bridge import text_block

    cut = get_tokenizer("basic_english")
    vocab = build_vocab_from_iterator(map(cut, ["you can now", "it is good"]), specials=["<unk>"])
    vocab.set_default_index(vocab["<unk>"])
    data = DataBlock(blocks=(text_block(vocab), CategoryBlock), splitter=RandomSplitter(0.2, seed=1)).dataloaders(
        TEXTS, bs=4, workers=0
    )
    block = data.plan.fields["x"].final
    assert (block.vocab_size, block.pad_id) == (len(vocab) + 1, len(vocab))
    for text, _ in TEXTS[:2]:
        assert data.plan.encode({"x": text})["x"].tolist() == vocab(cut(text))


@there
def test_a_vocabulary_of_two_unknowns_is_said() -> None:
    from torchtext.vocab import build_vocab_from_iterator

    from graftwork_text.torchtext_bridge import vocab_words

    vocab = build_vocab_from_iterator([["a", "<unk>"]], specials=["nil"])
    vocab.set_default_index(0)
    with pytest.raises(DataError, match="unk='nil'"):
        vocab_words(vocab)
    assert vocab_words(vocab, unk="nil")[-1] == "<pad>"


@there
def test_ours_become_theirs() -> None:
    from graftwork_text.torchtext_bridge import to_torchtext_tokenizer, to_torchtext_vocab, vocab_words
    from graftwork_text.transforms import text_steps

    recipe = DataBlock(blocks=(TextBlock(min_freq=1), CategoryBlock), splitter=RandomSplitter(0.2, seed=1))
    plan = recipe.dataloaders(TEXTS, bs=4, workers=0).plan
    vocab, cut = to_torchtext_vocab(plan), to_torchtext_tokenizer(plan)
    lookup = text_steps(plan)[1]
    assert tuple(vocab.get_itos()) == lookup.vocab
    assert vocab["never seen"] == lookup.unk_id
    for text in ("It's good now", "something else"):
        assert vocab(cut(text)) == plan.encode({"x": text})["x"].tolist()
    assert vocab_words(vocab, unk="xxunk", pad="xxpad") == lookup.vocab
    assert to_torchtext_tokenizer("words")("So good") == list(WordTokenizer().tokens("So good"))
    with pytest.raises(DataError, match="twice"):
        to_torchtext_vocab(["a", "a"])


def test_files_of_its_datasets_are_read(tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    news = root / "AG_NEWS"
    news.mkdir(parents=True)
    news.joinpath("train.csv").write_text('"3","Title","A ""quoted"" text"\n"1","Other","more"\n', encoding="utf-8")
    found = read_torchtext("AG_NEWS", tmp_path)
    assert (found.texts, found.labels) == (['Title A "quoted" text', "Other more"], ["3", "1"])
    for label in ("neg", "pos"):
        folder = root / "IMDB" / "aclImdb" / "test" / label
        folder.mkdir(parents=True)
        folder.joinpath("0_1.txt").write_text(f"a {label} film", encoding="utf-8")
    found = read_torchtext("IMDB", tmp_path, "test")
    assert (found.texts, found.labels) == (["a neg film", "a pos film"], ["neg", "pos"])
    sst = root / "SST2" / "SST-2"
    sst.mkdir(parents=True)
    sst.joinpath("dev.tsv").write_text('sentence\tlabel\nso "good \t1\nbad\t0\n', encoding="utf-8")
    found = read_torchtext("SST2", tmp_path, "dev")
    assert (found.texts, found.labels) == (['so "good', "bad"], ["1", "0"])
    wiki = root / "WikiText2" / "wikitext-2"
    wiki.mkdir(parents=True)
    wiki.joinpath("wiki.valid.tokens").write_text(" = A = \n\n word <unk>\n", encoding="utf-8")
    assert read_torchtext("WikiText2", tmp_path, "valid").texts == [" = A = ", "", " word <unk>"]
    with pytest.raises(UnknownName, match="AG_NEWS"):
        read_torchtext("AG_NEW", tmp_path)
    with pytest.raises(DataError, match=r"test\.csv"):
        read_torchtext("AG_NEWS", tmp_path, "test")
    with pytest.raises(DataError, match="train/neg"):
        read_torchtext("IMDB", tmp_path)
    with pytest.raises(DataError, match="no folder"):
        read_torchtext("SST2", tmp_path / "nowhere")
