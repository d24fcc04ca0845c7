"""The one-command job of a language model. Nothing heavy is imported to print its help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftwork.api import JobOptions, Task, option
from graftwork_text.tasks import TextOptions, check_left_out, read, read_arguments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork import Predictor
    from graftwork.api import DataLoaders, Learner, Loader, Plan

__all__ = ["TEMPERATURE", "TOP_P", "LanguageModel", "LanguageModelOptions"]

LSTM, TRANSFORMER, DEFAULT_LR = "text/awd-lstm-lm", "text/transformer-lm", 5e-3
TEMPERATURE, TOP_P = 0.8, 0.9
"""How freely the command line writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelOptions(TextOptions):
    """Add what a language model lets one choose."""

    seq_len: int = option(72, "Tokens of each stream in a batch.")
    width: int = option(200, "Features of a token; fastai's AWD-LSTM has 400.")
    hidden: int = option(400, "Features of all but the last layer of an LSTM; fastai's have 1152.")
    layers: int = option(2, "Layers of the network; fastai's AWD-LSTM has 3.")


class LanguageModel(Task):
    """Tell the next token of a text."""

    id: ClassVar[str] = "text/language-model"
    Options: ClassVar[type] = LanguageModelOptions

    def __init__(self, options: LanguageModelOptions) -> None:
        """Hold the options."""
        super().__init__(options)
        self._notes: list[str] = []

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of streams of tokens."""
        from graftwork_text.data import from_texts
        from graftwork_text.tokenizers import tokenizer_named

        given = self.options
        found = read(given, source, labelled=False)
        check_left_out(found, job)
        self._notes = list(found.notes)
        return from_texts(
            found,
            is_lm=True,
            tokenizer=tokenizer_named(given.tokenizer),
            min_freq=given.min_freq,
            max_vocab=given.max_vocab,
            seq_len=given.seq_len,
            valid_pct=job.valid_pct,
            seed=job.seed,
            bs=job.bs,
            workers=job.workers,
        )

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of AWD-LSTM, unless another model is asked for."""
        from graftwork.api import get_host
        from graftwork_text.learner import language_model_learner
        from graftwork_text.metrics import bits_per_byte, perplexity, token_accuracy
        from graftwork_text.streams import StreamLoader

        metrics = [perplexity(), token_accuracy()]
        if isinstance(data.valid, StreamLoader):
            metrics.append(bits_per_byte(data.valid.bytes_per_token))
        model = get_host().models.spec(LSTM if job.model == "auto" else job.model).id
        return language_model_learner(
            data, model, model_config=self._sizes(model), metrics=metrics, runtime=job.runtime(), seed=job.seed
        )

    def _sizes(self, model: str) -> dict[str, int]:
        """Return the sizes as a model's own options; a model of somebody else has its own."""
        given = self.options
        if model == LSTM:
            return {"emb_sz": given.width, "n_hid": given.hidden, "n_layers": given.layers}
        return {"width": given.width, "n_layers": given.layers} if model == TRANSFORMER else {}

    def default_lr(self, learner: Learner) -> float:
        """Return 5e-3."""
        return DEFAULT_LR

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of all texts of a source."""
        from graftwork_text.data import language_loader

        found = read(self.options, source, labelled=False)
        check_left_out(found, job)
        return language_loader(plan, found, bs=job.bs, seq_len=self.options.seq_len)

    def inputs(self, arguments: Sequence[str]) -> list[tuple[str, Any]]:
        """Read each INPUT: the beginning of a text, a file of one, or a table or folder of them."""
        return read_arguments(self.options, arguments)

    def predict(
        self, predictor: Predictor, values: Sequence[Any], *, on_bad_item: Literal["skip", "error"] = "skip"
    ) -> list[Any]:
        """Go on where each text ends; `graft generate` has options for it."""
        from graftwork.api import Prediction
        from graftwork_text.generation import generate

        texts = generate(predictor, list(values), temperature=TEMPERATURE, top_p=TOP_P)
        return [Prediction(value=text, probabilities=None, raw=None) for text in texts]

    def pictures(self, data: DataLoaders, learner: Learner) -> dict[str, Figure]:
        """Draw the losses."""
        return {"losses.png": learner.recorder.plot_losses()}

    def notes(self) -> Sequence[str]:
        """Return how the source was read."""
        return self._notes
