"""The one-command job of telling a text's class. Nothing heavy is imported to print its help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graftwork.api import ItemError, JobOptions, Task, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.api import DataLoaders, Learner, Loader, Plan
    from graftwork_text.reading import Texts

__all__ = ["TextClassification", "TextClassificationOptions", "TextOptions", "check_left_out", "read", "read_arguments"]

BAG, BAG_LR, NETWORK_LR = "text/bag", 0.03, 5e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """Hold what every text task lets one choose."""

    text_col: str = option("", "Column of the texts, or several with commas; by default that of the longest texts.")
    split_col: str = option("", "Column that says train or valid; by default one that is called split or is_valid.")
    tokenizer: str = option("words", "Tokenizer: words, bpe, unigram, characters, or the path of a tokenizer.json.")
    min_freq: int = option(3, "Words rarer than this in training are unknown.")
    max_vocab: int = option(60_000, "Words to keep at most.")
    encoding: str = option("utf-8", "Encoding of text files and CSVs.")
    errors: str = option("strict", "Bytes that are no text: strict refuses, replace puts a sign in their place.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassificationOptions(TextOptions):
    """Add what classification lets one choose."""

    target: str = option("", "Column of the labels; by default one called label, target, class …, or the only other.")
    max_length: int = option(20_000, "Cut texts off after so many tokens.")


def read(task: TextOptions, source: Any, *, labelled: bool, target: str = "") -> Texts:
    """Read a source as the options say."""
    from graftwork_text.reading import read_texts

    return read_texts(
        source,
        text_col=[name.strip() for name in task.text_col.split(",") if name.strip()] or None,
        target=target or None,
        labelled=labelled,
        split_col=task.split_col or None,
        encoding=task.encoding,
        errors=task.errors,
    )


def read_arguments(options: TextOptions, arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Read each INPUT: a text as it is, a file of one text, or a table or folder, each of whose texts is taken."""
    return [pair for argument in arguments for pair in _texts_of(options, argument)]


def _texts_of(options: TextOptions, argument: str) -> list[tuple[str, Any]]:
    path = Path(argument)
    try:
        there = bool(argument.strip()) and len(argument) < 1000 and path.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        return [(argument, argument)]
    from graftwork_text.reading import TABLES, file_text

    if path.is_file() and not path.name.lower().endswith(TABLES):
        return [(argument, file_text(path, encoding=options.encoding, errors=options.errors))]
    found = read(options, path, labelled=False)
    if found.left_out:
        raise ItemError(f"{argument}: {'; '.join(found.warnings)}")
    return [(f"{argument} {found.names(i)}", text) for i, text in enumerate(found.texts)]


class TextClassification(Task):
    """Tell the class of a text."""

    id: ClassVar[str] = "text/classification"
    Options: ClassVar[type] = TextClassificationOptions

    def __init__(self, options: TextClassificationOptions) -> None:
        """Hold the options."""
        super().__init__(options)
        self._notes: list[str] = []

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of the texts, cut and looked up."""
        from graftwork_text.data import from_texts
        from graftwork_text.tokenizers import tokenizer_named

        given = self.options
        found = read(given, source, labelled=True, target=given.target)
        check_left_out(found, job)
        self._notes = list(found.notes)
        return from_texts(
            found,
            tokenizer=tokenizer_named(given.tokenizer),
            min_freq=given.min_freq,
            max_vocab=given.max_vocab,
            max_length=given.max_length,
            valid_pct=job.valid_pct,
            seed=job.seed,
            bs=job.bs,
            workers=job.workers,
        )

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of the bag of words and pairs, unless another model is asked for."""
        from graftwork.api import Learner, get_host
        from graftwork_text.learner import text_classifier_learner

        model = get_host().models.spec(BAG if job.model == "auto" else job.model).id
        if model == BAG:
            runtime = job.runtime(auto="fp32")
            return Learner(data, model, lr=BAG_LR, wd=0.0, runtime=runtime, seed=job.seed)
        return text_classifier_learner(data, model, runtime=job.runtime(), seed=job.seed)

    def default_lr(self, learner: Learner) -> float:
        """Return the model's own rate."""
        return BAG_LR if learner.model_id == BAG else NETWORK_LR

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of all texts of a source with their labels."""
        from graftwork_text.data import classes_loader

        found = read(self.options, source, labelled=True, target=self.options.target)
        check_left_out(found, job)
        return classes_loader(plan, found, bs=job.bs)

    def inputs(self, arguments: Sequence[str]) -> list[tuple[str, Any]]:
        """Read each INPUT: a text as it is, a file of one, or a table or folder of texts."""
        return read_arguments(self.options, arguments)

    def baseline_ids(self, data: DataLoaders) -> Sequence[str]:
        """Return the most frequent class, and TF-IDF with logistic regression."""
        return (*data.plan.target.baseline_ids, "text/tf-idf")

    def notes(self) -> Sequence[str]:
        """Return how the source was read."""
        return self._notes

    def pictures(self, data: DataLoaders, learner: Learner) -> dict[str, Figure]:
        """Draw the losses, how classes are confused, and the texts that are told worst."""
        from graftwork_text.pictures import class_pictures

        return class_pictures(data, learner)


def check_left_out(found: Texts, job: JobOptions) -> None:
    """Raise ItemError if something was left out that must not be."""
    if found.left_out and job.on_bad_item == "error":
        raise ItemError("; ".join(found.warnings))
