"""Words by fastai's rules: fastai's own output, the kernels beside the rules, places in texts, vocabularies."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, OptionError
from graftwork_text.bulk import encode_texts, fit_words
from graftwork_text.byte_pairs import JOINED
from graftwork_text.reading import read_texts
from graftwork_text.rules import spans_of, untokenize, words_of
from graftwork_text.tokenizers import WordTokenizer, as_tokenizer
from graftwork_text.vocab import SPECIALS, make_vocab
from graftwork_text.words import WordEncoder

GOLDEN = json.loads((Path(__file__).parent / "fastai_words.json").read_text(encoding="utf-8"))
SENTENCE = "© Fast.ai www.fast.ai/INDEX This is a TEST!!!! so so so good"
WORDS = [
    "xxbos",
    "©",
    "xxmaj",
    "fast.ai",
    "xxrep",
    "3",
    "w",
    ".fast.ai",
    "/",
    "xxup",
    "index",
    "xxmaj",
    "this",
    "is",
    "a",
    "xxup",
    "test",
    "xxrep",
    "4",
    "!",
    "xxwrep",
    "3",
    "so",
    "good",
]

ODD = st.text(alphabet="abAB13 .,'\"-:;()!?/#*&$%<>=+_~@^[]|`\\\n\t\u00a0\u0085\u2003éß…—’😀אב\u0301", max_size=40)
SPOKEN = st.lists(
    st.sampled_from(
        [
            "so",
            "so",
            "so",
            "very",
            "Don't",
            "I'M",
            "it's",
            "U.S.",
            "e.g.",
            "10am",
            ":-)",
            "great:)",
            "www.x.com/a",
            "ha",
            "haha",
            "!!!",
            "...",
            "...so",
            "333",
            "3",
            "o",
            "ooo",
            "o",
            "<unk>",
            "&amp;",
            "R&B",
            "nbsp;",
            "#39;",
            "amp;",
            "@.@",
            "@-@",
            "<br",
            "/>",
            "<br/>",
            "\\n",
            "well-known",
            "word--word",
            "5km",
            "5p.m.",
            "$5.00",
            "\n",
            "",
            "\n\n",
        ]
    ),
    max_size=14,
).map(" ".join)


def kernel_words(texts: list[str]) -> list[list[str]]:
    encoder = WordEncoder()
    ids, ends = encoder.encode(texts)
    return [[encoder.word(i) for i in part.tolist()] for part in np.split(ids, ends[:-1])]


class TestFastai:
    """What fastai 2.8.12 with spaCy 3.8 makes of texts; written down once."""

    def test_the_golden_sentence(self):
        assert words_of(SENTENCE) == WORDS
        assert kernel_words([SENTENCE]) == [WORDS]

    def test_the_same_words(self):
        assert len(GOLDEN["agree"]) > 400
        assert [(text, words_of(text)) for text, words in GOLDEN["agree"] if words_of(text) != words] == []

    def test_the_kernels_give_them_too(self):
        texts = [text for text, _ in GOLDEN["agree"]]
        assert kernel_words(texts) == [words for _, words in GOLDEN["agree"]]

    def test_where_we_differ_only_signs_are_grouped_in_another_way(self):
        for text, words in GOLDEN["differ"]:
            assert words_of(text) != words
            assert "".join(words_of(text)) == "".join(words)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("aaaa", "xxrep 4 a"),
            ("aa", "aa"),
            ("bla bla bla bla", "xxwrep 4 bla"),
            ("ah ah", "ah ah"),
            ("I'M SHOUTING", "xxup i'm xxup shouting"),
        ],
    )
    def test_its_rules(self, text, words):
        cut = words.replace("i'm", "i 'm").split()
        assert words_of(text)[1:] == cut


class TestKernels:
    """The kernels must agree with the rules on whatever there is."""

    @settings(max_examples=300, deadline=None)
    @given(st.lists(ODD | SPOKEN, min_size=1, max_size=4))
    def test_they_agree_with_the_rules(self, texts):
        assert kernel_words(texts) == [words_of(text) for text in texts]

    def test_a_word_keeps_its_number_from_batch_to_batch(self):
        encoder = WordEncoder()
        first, _ = encoder.encode(["a good film"])
        again, _ = encoder.encode(["a bad film"])
        assert first[1] == again[1]
        assert first[3] == again[3]
        assert first[2] != again[2]

    def test_a_chunk_table_that_is_full_is_begun_anew(self, monkeypatch):
        monkeypatch.setattr("graftwork_text.words.MOST_CHUNKS", 3)
        encoder = WordEncoder()
        for _ in range(3):
            ids, _ = encoder.encode(["one two three four five six"])
            assert [encoder.word(i) for i in ids.tolist()][1:] == ["one", "two", "three", "four", "five", "six"]

    @pytest.mark.parametrize("text", ["", " ", "\n\n", "\u00a0", "x" * 500, "\ud800", "\0", "a\0b"])
    def test_odd_texts(self, text):
        assert kernel_words([text, "b"]) == [words_of(text), words_of("b")]

    def test_ten_megabytes_in_one_document(self):
        text = "A good film, it's GREAT! " * 400_000
        encoder = WordEncoder()
        ids, ends = encoder.encode([text])
        assert len(ids) == ends[0] == 1 + 400_000 * 9
        assert len(encoder) < 30


class TestPlaces:
    """Where a token stands in its text."""

    @settings(max_examples=300, deadline=None)
    @given(ODD | SPOKEN)
    def test_each_has_a_place_in_the_text(self, text):
        words, spans = words_of(text), spans_of(text)
        assert len(words) == len(spans)
        assert all(0 <= a <= b <= len(text) for a, b in spans)

    @settings(max_examples=300, deadline=None)
    @given(st.text(alphabet="abcAB 12,.!?'()é😀אבג\u0301-:;", max_size=40))
    def test_the_text_there_is_the_word(self, text):
        words = words_of(text)
        for i, (word, (a, b)) in enumerate(zip(words, spans_of(text), strict=True)):
            if a == b or "xxrep" in words[max(0, i - 2) : i] or "xxwrep" in words[max(0, i - 2) : i]:
                continue
            if word != "…" and "▁" not in word:
                assert text[a:b].lower() == word

    def test_what_was_repeated_stands_for_all_of_it(self):
        words, spans = words_of("wow!!!!"), spans_of("wow!!!!")
        assert words == ["xxbos", "wow", "xxrep", "4", "!"]
        assert spans[-1] == (3, 7)
        assert spans[2][0] == spans[2][1]


class TestBack:
    """From words to a text."""

    @pytest.mark.parametrize(
        "text", ["Two good films.", "We don't know!!!!", "so so so GOOD", "It's (really) fine, OK?"]
    )
    def test_marks_are_undone(self, text):
        assert untokenize(words_of(text)).replace(" ", "") == text.replace(" ", "")


class TestVocabulary:
    """Which words are kept."""

    def test_fastais_order(self):
        vocab = make_vocab({"c": 2, "a": 5, "b": 3, "xxbos": 9}, min_freq=3)
        assert vocab[:11] == (*SPECIALS, "a", "b")
        assert len(vocab) % 8 == 0
        assert vocab[11] == "xxfake0"

    @settings(max_examples=50, deadline=None)
    @given(st.lists(SPOKEN, min_size=1, max_size=20), st.integers(1, 3), st.integers(1, 20))
    def test_the_fast_way_gives_the_same(self, texts, min_freq, most):
        counts = Counter(word for text in texts for word in words_of(text))
        vocab, packed = fit_words(texts, min_freq=min_freq, max_vocab=most)
        assert vocab == make_vocab(counts, min_freq=min_freq, max_vocab=most)
        assert np.array_equal(encode_texts(WordTokenizer(), vocab, texts).ids, packed.ids)

    def test_only_training_texts_count(self):
        vocab, packed = fit_words(["a a a", "b b b"], min_freq=1, train=1)
        assert "b" not in vocab
        assert packed.text(1).tolist()[-1] == 0

    def test_threads_change_nothing(self, monkeypatch):
        texts = [f"text number {i} of what's there, {i % 7} times!!!" for i in range(500)]
        alone = fit_words(texts, min_freq=1, workers=1)
        monkeypatch.setattr("graftwork_text.bulk.SMALL", 10)
        vocab, packed = fit_words(texts, min_freq=1, workers=3)
        assert vocab == alone[0]
        assert np.array_equal(packed.ids, alone[1].ids)

    def test_an_impossible_number(self):
        with pytest.raises(OptionError, match="min_freq=0"):
            make_vocab({}, min_freq=0)


class TestTokenizers:
    """Names, JSON, pieces, patterns."""

    TEXTS = ("a good film, really.", "BAD film! Was it? ✓ é", "שלום עולם") * 20

    @pytest.mark.parametrize("name", ["words", "bpe", "unigram", "characters"])
    def test_json_there_and_back(self, name):
        made = as_tokenizer(name).fit(self.TEXTS)
        again = as_tokenizer(made.to_json())
        assert again.tokens(self.TEXTS[1]) == made.tokens(self.TEXTS[1])
        assert again.to_json() == made.to_json()

    @pytest.mark.parametrize("name", ["bpe", "unigram", "characters"])
    def test_nothing_is_lost(self, name):
        made = as_tokenizer(name).fit(self.TEXTS)
        for text in self.TEXTS[:3]:
            assert made.text(made.tokens(text)) == text

    PARTS = (
        *SPECIALS,
        *"xbos' \n",
        "xx",
        "xxb",
        "'s",
        "I'll  \n\n go\u00a0on ",
        "good",
        "1.5",
        "\ud800",
        "\0",
        "👍🏽",
        "é",
        "e\u0301",
        "שלום",
    )

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.text() | st.lists(st.sampled_from(PARTS), max_size=8).map("".join), max_size=6))
    def test_tiktoken_gives_the_same_pieces(self, texts):
        pytest.importorskip("tiktoken")
        self.check_pieces(texts)

    def check_pieces(self, texts):
        made = self.pieces()
        codes = {word: code for code, word in enumerate(made.vocab)}
        found = made.batch_ids(texts, codes, 0)
        assert [row.tolist() for row in found] == [[codes[t] for t in made.tokens(text)] for text in texts]
        assert {row.dtype for row in found} <= {np.dtype(np.int32)}

    @pytest.mark.parametrize("count", [0, 1, JOINED, JOINED + 1, 2 * JOINED + 3])
    def test_tiktoken_gives_the_same_pieces_of_many_texts(self, count):
        pytest.importorskip("tiktoken")
        self.check_pieces([("a film ", "", "xxbos", "so x", "xbos\n", " 's xx")[i % 6] * (i % 4) for i in range(count)])

    @staticmethod
    @cache
    def pieces():
        return as_tokenizer("bpe").fit(text for text, _ in GOLDEN["agree"])

    def test_tiktoken_gives_the_same_pieces_of_reviews(self, imdb):
        pytest.importorskip("tiktoken")
        texts = read_texts(imdb).texts[:300]
        made = as_tokenizer("bpe").fit(texts, max_vocab=3000)
        codes = {word: code for code, word in enumerate(made.vocab)}
        for text, row in zip(texts, made.batch_ids(texts, codes, 0), strict=True):
            assert row.tolist() == [codes[token] for token in made.tokens(text)]

    @pytest.mark.parametrize("name", ["bpe", "unigram", "characters"])
    def test_places_cover_the_text(self, name):
        made = as_tokenizer(name).fit(self.TEXTS)
        for text in self.TEXTS[:3]:
            spans = made.spans(text)
            assert len(spans) == len(made.tokens(text))
            assert {i for a, b in spans for i in range(a, b)} == set(range(len(text)))

    def test_an_unknown_one(self):
        from graftwork.api import UnknownName

        with pytest.raises(UnknownName, match="did you mean 'words'"):
            as_tokenizer("word")

    def test_damaged_json(self):
        with pytest.raises(OptionError, match="damaged"):
            as_tokenizer('{"kind": ')

    def test_a_damaged_file(self, tmp_path):
        from graftwork_text.subwords import from_file

        path = tmp_path / "tokenizer.json"
        path.write_text('{"version": "1.0", "model"', encoding="utf-8")
        with pytest.raises(DataError, match="damaged"):
            from_file(path)

    def test_a_file_of_another_program(self, tmp_path):
        from graftwork_text.subwords import from_file

        made = as_tokenizer("bpe").fit(self.TEXTS)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.loads(made.to_json())["model"], encoding="utf-8")
        assert from_file(path).tokens("a good film") == made.tokens("a good film")
