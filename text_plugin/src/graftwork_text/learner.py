"""language_model_learner, text_classifier_learner, and ULMFiT's way of training the second on the first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from torch.optim import Optimizer

from graftwork.api import Callback, DataLoaders, Learner, Loss, Metric, OptionError, Runtime
from graftwork_text.encoder_files import load_encoder
from graftwork_text.encoders import TrunkClassifier
from graftwork_text.loaders import BucketLoader

__all__ = ["fit_ulmfit", "language_model_learner", "text_classifier_learner"]

LOG: Final = logging.getLogger("graftwork")
MetricLike: TypeAlias = "Metric | str | Callable[..., Any]"
MOMENTA: Final = (0.8, 0.7, 0.8)
LR_RATIO: Final = 2.6**4
"""Between the last group's rate and the first's (ULMFiT's 2.6 a layer)."""


def language_model_learner(
    data: DataLoaders,
    model: str = "text/awd-lstm-lm",
    *,
    drop_mult: float | None = None,
    pretrained: str | Path | None = None,
    model_config: Mapping[str, Any] | None = None,
    loss: Loss | str | None = None,
    metrics: MetricLike | Sequence[MetricLike] | None = None,
    optimizer: str | Callable[..., Optimizer] = "adamw",
    lr: float = 5e-3,
    wd: float = 0.1,
    callbacks: Sequence[Callback] = (),
    runtime: Runtime | None = None,
    seed: int = 42,
    progress: bool = True,
) -> Learner:
    """Return a learner that tells next tokens; `drop_mult` scales all dropouts of AWD-LSTM.

    `pretrained` is an encoder file: its weights are loaded, words by their names, and all but the words are frozen,
    so that `fine_tune` or `fit_one_cycle` and `unfreeze` go on from there. The runtime defaults to automatic precision.

    Raises:
        OptionError: an option the model does not have.
        ArtifactError: a file that is no encoder of this architecture.
    """
    config = _config(model, drop_mult, model_config)
    learn = Learner(
        data, model, model_config=config, loss=loss, metrics=metrics, optimizer=optimizer, lr=lr, wd=wd,
        callbacks=callbacks, runtime=runtime or Runtime(precision="auto"), seed=seed, progress=progress,
    )  # fmt: skip
    return _pretrained(learn, pretrained)


def text_classifier_learner(
    data: DataLoaders,
    model: str = "text/awd-lstm-classifier",
    *,
    drop_mult: float | None = None,
    pretrained: str | Path | None = None,
    seq_len: int | None = None,
    max_len: int | None = None,
    model_config: Mapping[str, Any] | None = None,
    loss: Loss | str | None = None,
    metrics: MetricLike | Sequence[MetricLike] | None = None,
    optimizer: str | Callable[..., Optimizer] = "adamw",
    lr: float = 2e-2,
    wd: float = 0.1,
    callbacks: Sequence[Callback] = (),
    runtime: Runtime | None = None,
    seed: int = 42,
    progress: bool = True,
) -> Learner:
    """Return a learner that classifies texts, read `seq_len` tokens at a time, the last `max_len` with gradients.

    `pretrained` is an encoder file of a language model: it is loaded, words by their names, and all but the head is
    frozen; `fit_ulmfit` trains it by gradual unfreezing. The runtime defaults to automatic precision.

    Raises:
        OptionError: an option the model does not have.
        ArtifactError: a file that is no encoder of this architecture.
    """
    given = {"seq_len": seq_len, "max_len": max_len}
    config = _config(model, drop_mult, model_config) | {k: v for k, v in given.items() if v is not None}
    learn = Learner(
        data, model, model_config=config, loss=loss, metrics=metrics, optimizer=optimizer, lr=lr, wd=wd,
        callbacks=callbacks, runtime=runtime or Runtime(precision="auto"), seed=seed, progress=progress,
    )  # fmt: skip
    _say_what_is_cut(learn)
    return _pretrained(learn, pretrained)


def _say_what_is_cut(learn: Learner) -> None:
    """Count the texts of which an encoder reads the beginning only."""
    longest = learn.module.longest if isinstance(learn.module, TrunkClassifier) else None
    loaders = [loader for loader in (learn.data.train, learn.data.valid) if isinstance(loader, BucketLoader)]
    cut = sum(int((loader.lengths > longest).sum()) for loader in loaders) if longest is not None else 0
    if cut:
        LOG.warning(
            "%d text(s) are longer than the %d tokens the encoder reads; it reads their beginning", cut, longest
        )


def _config(model: str, drop_mult: float | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(given or {}) | ({} if drop_mult is None else {"drop_mult": drop_mult})


def _pretrained(learn: Learner, path: str | Path | None) -> Learner:
    if path is not None:
        load_encoder(learn, path)
        learn.freeze()
    return learn


def fit_ulmfit(
    learn: Learner,
    epochs: int = 2,
    lr: float = 2e-2,
    *,
    wd: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> Learner:
    """Train a classifier by ULMFiT's recipe, as fastai teaches it.

    An epoch each for the head, the last two groups and the last three, then `epochs` for all, at rates that fall from
    fit to fit, and by 2.6**4 from the last group to the first. J. Howard and S. Ruder, arXiv 1801.06146. For unfreezing
    within a single fit, see graftwork's GradualUnfreezing.
    """
    if epochs < 1 or lr <= 0:
        raise OptionError(f"epochs={epochs} must be at least 1, and lr={lr} above 0")
    stages = [(-1, 1, lr), (-2, 1, lr / 2), (-3, 1, lr / 4), (0, epochs, lr / 20)]
    for first, length, rate in stages:
        if -first >= len(learn.groups):
            continue
        learn.freeze_to(first)
        rates = rate if first == -1 else slice(rate / LR_RATIO, rate)
        learn.fit_one_cycle(length, rates, moms=MOMENTA, wd=wd, callbacks=callbacks)
    return learn
