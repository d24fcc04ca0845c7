"""From texts to ids and batches, beside fastai, tokenizers and tiktoken; and the memory that a large file takes.

Words: the vocabulary of 10,000 reviews by fastai's rules, and their ids. Batches: from a frame of 2,000 reviews to all
padded batches of an epoch. Pieces: the ids of 10,000 reviews in a byte-level BPE of 30,000 pieces, learned beforehand.
Sides have seen some texts before, so that nothing is imported or compiled on the way; wall time on all cores. The file
is made by repetition, read line by line, and its ids written to a cache; measured is the process's memory at its peak.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from bench.harness import Check, Options, Report, Runner, Side, ratios
from bench.reviews import ELSEWHERE, Settings, digest, reviews, rows_of, timed, tokenizers_batch, write_file

__all__ = ["SIDES", "measure"]

FULL: Final = {"reviews": 10_000, "batched": 2000, "megabytes": 1000}
SMOKE: Final = {"reviews": 60, "batched": 60, "megabytes": 1}
ROUNDS: Final = 3
WARM: Final = "A warm-up, isn't it? So SO so so good!!!! Yes&amp;no (a <br />'' B) 1.5 www.a.com"


def words(settings: Settings) -> dict[str, Any]:
    """Fit and encode words."""
    from graftwork_text.bulk import fit_words

    texts = [text for text, _ in reviews(settings["reviews"])]
    fit_words([*texts[:20], WARM])
    seconds, (vocab, packed) = timed(lambda: fit_words(texts))
    return {"value": seconds, "digest": digest(vocab, rows_of(packed.ids, packed.ends)), "tokens": len(packed.ids)}


def batches(settings: Settings) -> dict[str, Any]:
    """Go from a frame to padded batches."""
    import pandas as pd

    from graftwork_text import TextDataLoaders

    frame = pd.DataFrame(reviews(settings["batched"]), columns=["text", "label"])

    def work(part: Any) -> int:
        data = TextDataLoaders.from_df(part, text_col="text", target="label", valid_pct=0.2, seed=0, bs=64)
        assert data.valid is not None
        return sum(batch.size for loader in (data.train, data.valid) for batch in loader)

    work(frame[:40])
    seconds, rows = timed(lambda: work(frame))
    return {"value": seconds, "rows": rows}


def pieces(settings: Settings) -> dict[str, Any]:
    """Cut into pieces that were learned before."""
    from graftwork_text.bulk import encode_texts
    from graftwork_text.subwords import SubwordTokenizer

    texts = [text for text, _ in reviews(settings["reviews"])]
    made = SubwordTokenizer("bpe", Path(settings["model"]).read_text(encoding="utf-8"))
    vocab = made.vocab or ()
    encode_texts(made, vocab, texts[:100])
    seconds, packed = timed(lambda: encode_texts(made, vocab, texts))
    without_first = (row[1:] for row in rows_of(packed.ids, packed.ends))  # xxbos
    return {"value": seconds, "digest": digest((), without_first)}


def large_file(settings: Settings) -> dict[str, Any]:
    """Write a token cache of a file that is larger than what may be held."""
    import resource

    from graftwork_text.cache import lines_of, tokenize_stream

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "large.txt"
        write_file(path, settings["megabytes"])
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        seconds, cache = timed(lambda: tokenize_stream(lines_of(path), Path(folder) / "cache"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        size, tokens = path.stat().st_size, len(cache.texts.ids)
    return {"value": peak, "begun": begun, "speed": size / seconds / 1e6, "tokens": tokens}


SIDES: Final[tuple[Side, ...]] = (
    Side(name="words, graftwork", run=words),
    Side(name="words, fastai", run=ELSEWHERE["words"], peer="fastai"),
    Side(name="batches, graftwork", run=batches),
    Side(name="batches, fastai", run=ELSEWHERE["batches"], peer="fastai"),
    Side(name="pieces, graftwork", run=pieces),
    Side(name="pieces, tokenizers", run=tokenizers_batch),
    Side(name="pieces, tiktoken", run=ELSEWHERE["pieces"], peer="tiktoken"),
    Side(name="large file, graftwork", run=large_file),
)
TARGETS: Final = {"words": 30.0, "batches": 40.0}


def measure(options: Options) -> Report:
    """Run all sides in turn and compare them round by round."""
    runner = Runner(case="text", options=options)
    report = Report(case="text", smoke=options.smoke, notes=runner.notes)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings: Settings = {**(SMOKE if options.smoke else FULL), "model": f"{folder}/pieces.json"}
        if runner.options.only == () or any(name.startswith("pieces") for name in options.only):
            _learn_pieces(settings)
        found = runner(SIDES, settings, rounds=1 if options.smoke else ROUNDS)
    for name, results in found.items():
        what = name.partition(",")[0]
        unit = "MB" if what == "large file" else "s"
        report.add(
            name, [r["value"] for r in results], unit, base=None if "graftwork" in name else f"{what}, graftwork"
        )
    _compare(report, found)
    return report


def _learn_pieces(settings: Settings) -> None:
    from graftwork_text.subwords import SubwordTokenizer

    made = SubwordTokenizer("bpe").fit(text for text, _ in reviews(settings["reviews"]))
    Path(settings["model"]).write_text(str(made.model), encoding="utf-8")


def _compare(report: Report, found: dict[str, list[dict[str, Any]]]) -> None:
    for what, target in TARGETS.items():
        ours, theirs = f"{what}, graftwork", f"{what}, fastai"
        if report.has(ours, theirs):
            times = ratios(report.values(theirs), report.values(ours)).median
            report.checks.append(Check(what=f"{theirs} / ours, time", value=times, target=target, better="high"))
    others = [name for name in ("pieces, tokenizers", "pieces, tiktoken") if report.has(name)]
    if others and report.has("pieces, graftwork"):
        faster = [min(each) for each in zip(*(report.values(name) for name in others), strict=True)]
        share = ratios(report.values("pieces, graftwork"), faster).median
        report.checks.append(Check(what="pieces, graftwork / the faster peer, time", value=share, target=1.1))
    for what in ("words", "pieces"):
        digests = {r["digest"] for name, results in found.items() if name.startswith(what) for r in results}
        if digests:
            report.checks.append(Check(what=f"{what}: different results", value=len(digests) - 1, target=0))
    for result in found.get("large file, graftwork", [])[:1]:
        report.checks.append(
            Check(what="large file: memory at the peak", value=result["value"], unit="MB", target=1000)
        )
        report.notes.append(
            f"large file: {result['tokens']:,} tokens at {result['speed']:.1f} MB/s; {result['begun']:.0f} MB before"
        )
