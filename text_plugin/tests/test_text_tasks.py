"""From the command line: training, evaluating, predicting; the bag, baselines, metrics and caches behind it."""

from __future__ import annotations

import io
import json
import math
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from graftwork.api import DataError, Learner, OptionError
from graftwork.cli.main import main
from graftwork.job import predict
from graftwork_text import (
    NGram,
    TextDataLoaders,
    TokenCache,
    bits_per_byte,
    perplexity,
    token_accuracy,
    tokenize_stream,
)
from graftwork_text.bag import Bag
from graftwork_text.bulk import fit_words
from graftwork_text.cache import lines_of, text_key
from graftwork_text.command import generate, tokenize
from graftwork_text.metrics import NextTokenLoss

LIKED, HATED = ("good", "great", "loved", "fine"), ("bad", "awful", "hated", "boring")


def reviews(count: int = 200) -> list[dict[str, str]]:
    """Invent reviews whose words tell their label, most of the time."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        words = [(LIKED, HATED)[i % 2][int(rng.integers(4))] if rng.random() < 0.6 else "film" for _ in range(6)]
        rows.append({"text": "The " + " ".join(words) + ".", "label": "neg" if i % 2 else "pos"})
    return rows


class Result(NamedTuple):
    stdout: str
    stderr: str


def graft(*arguments: object, status: int = 0) -> Result:
    """Run a command in this process: what a fresh one costs is imports."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        found = main([str(word) for word in arguments])
    assert found == status, err.getvalue()
    return Result(out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train on a CSV from the command line."""
    folder = tmp_path_factory.mktemp("task")
    pd.DataFrame(reviews()).to_csv(folder / "reviews.csv", index=False)
    told = graft("train", "text/classification", folder / "reviews.csv", "--out", folder / "run", "--json")
    return folder, json.loads(told.stdout.splitlines()[-1])


class TestClassification:
    """`graft train text/classification` and what comes after."""

    def test_it_learns_and_is_reported_beside_baselines(self, run):
        _, report = run
        assert report["metrics"]["accuracy"] > 0.9
        assert {b["id"] for b in report["baselines"]} == {"core/majority", "text/tf-idf"}
        assert report["rows"] == {"train": 160, "valid": 40}

    def test_evaluate_and_predict(self, run):
        folder, _ = run
        model = folder / "run" / "model.graft"
        told = json.loads(graft("evaluate", model, folder / "reviews.csv", "--json").stdout.splitlines()[-1])
        assert (told["rows"], told["metrics"]["accuracy"] > 0.9) == (200, True)
        (folder / "one.txt").write_text("awful, I hated it", encoding="utf-8")
        told = graft("predict", model, "a great film, I loved it", folder / "one.txt", "--json")
        rows = json.loads(told.stdout.splitlines()[-1])["predictions"]
        assert [row["prediction"] for row in rows] == ["pos", "neg"]
        assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)

    @pytest.mark.long
    @pytest.mark.slow
    def test_reviews(self, imdb, tmp_path):
        told = graft("train", "text/classification", imdb, "--out", tmp_path / "run", "--json")
        assert json.loads(told.stdout.splitlines()[-1])["metrics"]["accuracy"] >= 0.885


class TestBag:
    """The default classifier."""

    def test_a_word_said_twice_counts_once(self):
        bag = Bag(20, 2, pad_id=1, pair_bits=0, dropout=0.0)
        torch.nn.init.normal_(bag.weight)
        bag.eval()
        assert torch.allclose(bag(torch.tensor([[2, 5, 5, 7]])), bag(torch.tensor([[7, 5, 2, 1]])))

    def test_pairs_know_their_order(self):
        bag = Bag(20, 2, pad_id=1, pair_bits=10, dropout=0.0)
        torch.nn.init.normal_(bag.weight)
        bag.eval()
        assert not torch.allclose(bag(torch.tensor([[5, 7]])), bag(torch.tensor([[7, 5]])))

    def test_padding_changes_nothing(self):
        bag = Bag(20, 3, pad_id=1, pair_bits=10, dropout=0.0)
        torch.nn.init.normal_(bag.weight)
        bag.eval()
        assert torch.allclose(bag(torch.tensor([[5, 7, 9]])), bag(torch.tensor([[5, 7, 9, 1, 1, 1]])))

    def test_rare_words_weigh_more(self):
        bag = Bag(20, 1, pad_id=1, pair_bits=0, dropout=0.0)
        bag.train()
        bag(torch.tensor([[5, 7], [5, 8], [5, 9]]))
        assert bag.seen[5] == 3
        assert bag.texts == 3
        bag.eval()
        torch.nn.init.zeros_(bag.weight)
        with torch.no_grad():
            bag.weight[5] = 1.0
            common = float(bag(torch.tensor([[5, 7]])))
            bag.weight[5], bag.weight[7] = 0.0, 1.0
            assert float(bag(torch.tensor([[5, 7]]))) > common


class TestNextToken:
    """Losses, metrics and baselines of language models."""

    def test_loss_and_metrics_agree_over_uneven_batches(self):
        torch.manual_seed(0)
        loss, seen, right = NextTokenLoss(), perplexity(), token_accuracy()
        total, count = 0.0, 0
        for length in (5, 2):
            raw, target = torch.randn(3, length, 11), torch.randint(0, 11, (3, length))
            target[0, -1] = -100
            told = raw.log_softmax(-1).transpose(1, 2)
            seen.update(told, target)
            right.update(told, target)
            known = int((target != -100).sum())
            total, count = total + float(loss(raw, target)) * known, count + known
        assert seen.compute() == pytest.approx(math.exp(total / count))
        assert 0 <= right.compute() <= 1

    def test_bits_per_byte(self):
        metric = bits_per_byte(4.0)
        metric.update(torch.full((1, 8, 3), -math.log(8)), torch.zeros(1, 3, dtype=torch.int64))
        assert metric.compute() == pytest.approx(3 / 4)
        with pytest.raises(OptionError, match="above 0"):
            bits_per_byte(0.0)

    def test_n_grams_are_distributions(self):
        ids = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 3, 3, 0])
        model = NGram().count(ids, 5)
        for before in ([0, 1], [3, 3], [4, 4], [2, 4]):
            chances = [math.exp(model.log_likelihood(np.array([*before, last]))[-1]) for last in range(5)]
            assert sum(chances) == pytest.approx(1)
        assert math.exp(model.log_likelihood(np.array([0, 1, 2]))[-1]) > 0.4

    def test_it_is_measured_on_the_models_own_tokens(self):
        from graftwork.api import Objective

        data = TextDataLoaders.from_texts([row["text"] for row in reviews()], is_lm=True, min_freq=1, bs=4, seq_len=10)
        objective = Objective(data.plan)
        found = NGram().fit(data).measure(data.valid, objective)
        ids = data.valid.texts.ids[: data.valid.num_tokens + 1]
        mean = -NGram().fit(data).log_likelihood(ids).mean()
        assert found == {"perplexity": pytest.approx(math.exp(mean))}
        assert 1 < found["perplexity"] < data.plan.target.num_outputs

    def test_valid_loss_counts_tokens(self):
        data = TextDataLoaders.from_texts([row["text"] for row in reviews()], is_lm=True, min_freq=1, bs=4, seq_len=50)
        assert data.valid.length % 50
        config = {"width": 16, "n_layers": 1, "n_heads": 2}
        learn = Learner(data, "text/transformer-lm", model_config=config, progress=False)
        told = learn.validate()
        assert math.exp(told["valid_loss"]) == pytest.approx(told["perplexity"], rel=1e-4)


class TestLanguageTask:
    """`graft train text/language-model`."""

    def test_from_a_text_file(self, tmp_path):
        path = tmp_path / "lines.txt"
        path.write_text("\n".join(row["text"] for row in reviews(300)), encoding="utf-8")
        told = graft(
            "train", "text/language-model", path, "--model", "text/transformer-lm", "--min-freq", 1, "--seq-len", 16,
            "--width", 16, "--bs", 4, "--epochs", 1, "--out", tmp_path / "run", "--json",
        )  # fmt: skip
        report = json.loads(told.stdout.splitlines()[-1])
        assert set(report["metrics"]) == {"valid_loss", "perplexity", "accuracy", "bits_per_byte"}
        assert report["baseline"]["id"] == "text/n-gram"
        told = graft("evaluate", tmp_path / "run" / "model.graft", path, "--json")
        assert json.loads(told.stdout.splitlines()[-1])["metrics"]["perplexity"] > 1
        prompts, model = ["", *["The film"] * 7], tmp_path / "run" / "model.graft"
        said = [row["prediction"] for row in predict(model, prompts)[0]]
        assert all(text.startswith(prompt) for text, prompt in zip(said, prompts, strict=True))
        # A model may end a text at once, but hardly all; which ones differs between versions of torch.
        assert any(text.startswith("The film ") for text in said)
        told = CliRunner().invoke(generate, [str(model), *prompts, "--json"])
        assert json.loads(told.stdout.splitlines()[-1]) == {"texts": said}


class TestCache:
    """Token ids on disk."""

    def test_they_are_what_memory_has(self, tmp_path, monkeypatch):
        monkeypatch.setattr("graftwork_text.cache.BATCH_CHARACTERS", 500)
        texts = [row["text"] for row in reviews()]
        cache = tokenize_stream(iter(texts), tmp_path / "cache", min_freq=2)
        vocab, packed = fit_words(texts, min_freq=2)
        assert cache.vocab == vocab
        assert np.array_equal(cache.texts.ids, packed.ids)
        assert np.array_equal(cache.texts.ends, packed.ends)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"]

    def test_a_damaged_one(self, tmp_path):
        cache = tokenize_stream(["a b c"], tmp_path / "cache")
        (cache.folder / "ids.npy").write_bytes(b"nothing")
        with pytest.raises(DataError, match="damaged"):
            TokenCache(tmp_path / "cache")

    def test_nothing_is_left_of_a_failure(self, tmp_path):
        with pytest.raises(DataError, match="no text"):
            tokenize_stream([], tmp_path / "cache")
        assert list(tmp_path.iterdir()) == []

    def test_keys_depend_on_texts_their_borders_and_the_tokenizer(self):
        keys = {text_key(t, k) for t in (["ab", "c"], ["a", "bc"], ["abc"]) for k in ("words", "bpe")}
        assert len(keys) == 6

    def test_the_command(self, tmp_path):
        path = tmp_path / "lines.txt"
        path.write_text("one text\n\nanother text\n", encoding="utf-8")
        told = CliRunner().invoke(tokenize, [str(path), str(tmp_path / "cache"), "--min-freq", "1"])
        assert "2 texts, 6 tokens" in told.output
        assert list(lines_of(path)) == ["one text\n", "another text\n"]
        path.write_bytes(b"\xff\xfe\xff")
        told = graft("tokenize", path, tmp_path / "other", status=2)
        assert "--encoding" in told.stderr
