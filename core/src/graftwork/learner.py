"""Learner: data, a model and how to train it, with fastai's verbs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import nn
from torch.optim import Optimizer

from graftwork.callbacks.progress import ProgressDisplay
from graftwork.callbacks.recorder import Recorder
from graftwork.datablock import DataLoaders
from graftwork.dataloader import Loader
from graftwork.engine import EngineRun, listeners
from graftwork.errors import DataError, FreezeError, OptionError
from graftwork.events import Callback, EventTable, TrainState
from graftwork.loop import Feed, Loop, collect, each_batch, evaluate, share_bad_items
from graftwork.model import ModelParts, build_model, carried_over, freeze_groups
from graftwork.objective import LossLike, MetricLike, Objective
from graftwork.optim import ParamGroup, companions, hyper_setter, make_optimizer
from graftwork.page import Page
from graftwork.prediction import Prediction, Predictions
from graftwork.runtime import Runtime, repeatable, seeded
from graftwork.schedule import Schedule, ScheduleMaker, discriminative_lrs, flat_cos, maker, one_cycle, sgdr
from graftwork.seeds import derive_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.callbacks.checkpointer import Captured
    from graftwork.lr_find import Sweep
    from graftwork.resume import Snapshot, Start

__all__ = ["Learner", "LearningRate"]

LOG = logging.getLogger("graftwork")

LearningRate = float | slice
MOMENTA = (0.95, 0.85, 0.95)


class Learner:
    """Train `model` on `data`; what is left out comes from the target's block.

    `model` is the name of a registered model (its options in `model_config`), the ModelParts of one, or any nn.Module;
    only a named model can be exported, since an artifact holds names and no code. `lr` and `wd` are the defaults of the
    verbs. Everything random (initial weights, order, augmentation, dropout) comes from `seed`; torch's global
    generators are left as they were.
    """

    def __init__(
        self,
        data: DataLoaders,
        model: str | ModelParts | nn.Module,
        *,
        model_config: Mapping[str, Any] | None = None,
        loss: LossLike | Mapping[str, LossLike] | None = None,
        metrics: MetricLike | Sequence[MetricLike] | Mapping[str, Sequence[MetricLike]] | None = None,
        optimizer: str | Callable[..., Optimizer] = "adamw",
        lr: float = 1e-3,
        wd: float = 0.01,
        callbacks: Sequence[Callback] = (),
        runtime: Runtime | None = None,
        seed: int = 42,
        train_norm: bool = True,
        progress: bool = True,
    ) -> None:
        """Build the model and move it to the runtime's device."""
        self.data, self.seed, self.lr, self.wd, self.train_norm = data, seed, lr, wd, train_norm
        self.optimizer, self.callbacks = optimizer, list(callbacks)
        self.objective = Objective(data.plan, loss=loss, metrics=metrics)
        self.model_id, self.model_config, self.parts = self._model(model, model_config)
        self.runtime = runtime or Runtime()
        self._begin()
        self.recorder = Recorder()
        self.display = ProgressDisplay() if progress else None
        self.epochs_done = self.fits_done = self.steps_done = 0
        self._replayed: Snapshot | None = None

    def _begin(self) -> None:
        """Bring the model to the runtime's device, and prepare the data for it."""
        self.objective.train_loss = self.parts.train_loss
        self.session = self.runtime.start(self.parts.module, products=self.parts.products)
        self.session.processes.check_batch(self.data.train.bs)
        self.objective.loss_module.to(self.session.device)
        self.data.serve(self.session.device)
        self.feed = Feed(self.parts.module, self.session, self.data.plan, seed=self.seed)

    def set_data(self, data: DataLoaders) -> Self:
        """Go on with other data of the same kinds, as with larger pictures (progressive resizing); history goes on too.

        Raises:
            OptionError: the inputs or targets are others, or the model would be another one for this data.
        """
        self.parts = carried_over(self.parts, self.model_id, self.model_config, old=self.data.plan, new=data.plan)
        self.data = data
        vars(self).pop("fingerprints", None)
        self._begin()
        return self

    def _model(
        self, model: str | ModelParts | nn.Module, config: Mapping[str, Any] | None
    ) -> tuple[str | None, dict[str, Any], ModelParts]:
        if isinstance(model, str):
            with seeded(derive_seed(self.seed, "model")):
                name, parts = build_model(model, self.data.plan, config or {})
            return name, dict(config or {}) if parts.config is None else dict(parts.config), parts
        if config:
            raise OptionError("model_config goes with the name of a model; this model is already built")
        return None, {}, model if isinstance(model, ModelParts) else ModelParts(module=model)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.parts.module

    @property
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameter groups by name, from input to output."""
        return self.parts.parameter_groups()

    @property
    def history(self) -> list[dict[str, float]]:
        """One line per epoch, over all fits: epoch, train_loss, valid_loss, metrics, seconds."""
        return self.recorder.history

    # -- training ------------------------------------------------------------------------------------------------

    def fit(
        self,
        epochs: int,
        lr: LearningRate | None = None,
        *,
        schedule: str | ScheduleMaker = "constant",
        wd: float | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train at a constant learning rate, or by a schedule: a name ("cos", "wsd", …) or a maker."""
        return self._fit(epochs, lr, wd, callbacks, maker(schedule))

    def fit_one_cycle(
        self,
        epochs: int,
        lr_max: LearningRate | None = None,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        moms: tuple[float, float, float] = MOMENTA,
        wd: float | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train with one cycle: cosine from lr_max/div up to lr_max, then down to lr_max/div_final; momentum mirrored.

        L. N. Smith, "Super-convergence" (arXiv 1708.07120), with fastai's cosine shape and defaults.
        """

        def schedule(lr: float, steps: int) -> Schedule:
            return one_cycle(lr, steps, div=div, div_final=div_final, pct_start=pct_start, moms=moms)

        return self._fit(epochs, lr_max, wd, callbacks, schedule)

    def fit_flat_cos(
        self,
        epochs: int,
        lr: LearningRate | None = None,
        *,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        wd: float | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train at a constant learning rate for `pct_start` of the steps, then go down along a cosine."""

        def schedule(lr: float, steps: int) -> Schedule:
            return flat_cos(lr, steps, div_final=div_final, pct_start=pct_start)

        return self._fit(epochs, lr, wd, callbacks, schedule)

    def fit_sgdr(
        self,
        n_cycles: int,
        cycle_len: int,
        lr_max: LearningRate | None = None,
        *,
        cycle_mult: int = 2,
        wd: float | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train along cosines that fall to 0 and start anew; each is `cycle_mult` times as long.

        I. Loshchilov and F. Hutter, arXiv 1608.03983. The first has `cycle_len` epochs: `fit_sgdr(3, 1)` has 1 + 2 + 4.
        """
        if n_cycles < 1 or cycle_len < 1 or cycle_mult < 1:
            raise OptionError(f"n_cycles={n_cycles}, cycle_len={cycle_len}, cycle_mult={cycle_mult} must be 1 or more")
        epochs = sum(cycle_len * cycle_mult**i for i in range(n_cycles))
        return self._fit(epochs, lr_max, wd, callbacks, partial(sgdr, n_cycles=n_cycles, cycle_mult=cycle_mult))

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        *,
        freeze_epochs: int = 1,
        lr_mult: float = 100.0,
        pct_start: float = 0.3,
        div: float = 5.0,
        wd: float | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train the last group alone, then all of them, earlier ones at geometrically lower rates (fastai's recipe)."""
        self.freeze()
        self.fit_one_cycle(freeze_epochs, base_lr, pct_start=0.99, wd=wd, callbacks=callbacks)
        self.unfreeze()
        rates = slice(base_lr / 2 / lr_mult, base_lr / 2)
        return self.fit_one_cycle(epochs, rates, pct_start=pct_start, div=div, wd=wd, callbacks=callbacks)

    def _fit(
        self,
        epochs: int,
        lr: LearningRate | None,
        wd: float | None,
        callbacks: Sequence[Callback],
        schedule: Callable[[float, int], Schedule],
    ) -> Self:
        if epochs < 1:
            raise OptionError(f"epochs={epochs}: train for at least one epoch")
        batches = len(self.data.train)
        rates = discriminative_lrs(self.lr if lr is None else lr, len(self.groups))
        schedules = dict(zip(self.groups, (schedule(rate, epochs * batches) for rate in rates), strict=True))
        found, self._replayed = self._replayed, None
        if found is not None and found.manifest["fit"]["number"] > self.fits_done:
            self._replayed = found
            self.fits_done += 1
            return self
        return self._run(epochs, schedules, rates[-1], wd, callbacks, found)

    def _run(
        self,
        epochs: int,
        schedules: Mapping[str, Schedule],
        lr: float,
        wd: float | None,
        callbacks: Sequence[Callback],
        found: Snapshot | None = None,
    ) -> Self:
        """Train from the beginning of a fit, or from where a checkpoint was found in it."""
        if found is not None:
            found.load_flags(self, at_start=True)
        optimizer = self.make_optimizer(lr, wd)
        state = TrainState(
            model=self.module,
            optimizer=optimizer,
            num_epochs=epochs,
            num_batches=len(self.data.train),
            first_epoch=self.epochs_done if found is None else found.manifest["fit"]["first_epoch"],
            steps_before=self.steps_done,
        )
        given = [*self.callbacks, *callbacks]
        everyone = [self.recorder, *given]
        state.capture = partial(self._capture, state, everyone, schedules)
        heard = [*everyone, *companions(optimizer), *([] if self.display is None else [self.display])]
        first = self.session.processes.first
        table = EventTable.compile(callback for callback in heard if first or not callback.first_only)
        loop = Loop(self.feed, self.objective, optimizer, table, state, hyper_setter(optimizer, schedules, state))
        run = self._engine_run(optimizer, schedules, state, given)
        start = None if found is None else found.start(self, everyone, state)
        rank = self.session.processes.rank
        seed = derive_seed(self.seed, "fit", *((self.fits_done, rank) if rank else (self.fits_done,)))
        with (
            self.session.processes.explained(),
            repeatable(self.session.deterministic),
            seeded(seed, self.session.device),
        ):
            self._epochs(loop, epochs, run, start)
        self.fits_done += 1
        self.steps_done += state.step
        return self

    def _capture(
        self, state: TrainState, callbacks: Sequence[Callback], schedules: Mapping[str, Schedule], done: bool
    ) -> Captured:
        from graftwork.resume import capture

        return capture(self, state, callbacks, schedules, done=done)

    @cached_property
    def fingerprints(self) -> dict[str, str | None]:
        """A hash of each split's order, encoding and values, or some of them."""
        from graftwork.resume import fingerprint

        splits = {"train": self.data.train, "valid": self.data.valid}
        return {name: None if loader is None else fingerprint(loader) for name, loader in splits.items()}

    def resume(self, path: str | Path, *, callbacks: Sequence[Callback] = ()) -> Self:
        """Go on with the fit that a checkpoint (a file, or the last whole one of a folder) was taken in, to its end.

        The learner is to be made as the one that was stopped, of the same data, model, seed and callbacks; on the CPU
        the end is then the same to the last bit.

        Raises:
            ArtifactError: no checkpoint, one of another model (with what differs), or of other data.
        """
        found = self._found(path)
        return self._run(found.manifest["fit"]["epochs"], found.schedules(), self.lr, None, callbacks, found)

    def replay(self, path: str | Path | Snapshot) -> Self:
        """Get ready to go on from a checkpoint by calling the same verbs again: what was done is skipped.

        For recipes of several fits, as `fine_tune` is: `learn.replay("run").fine_tune(5)`.
        """
        self._replayed = self._found(path)
        self.fits_done = 0
        return self

    def _found(self, path: str | Path | Snapshot) -> Snapshot:
        from graftwork.resume import Snapshot, check_data, describe, last_snapshot

        found = path if isinstance(path, Snapshot) else last_snapshot(path)
        check_data(self, found)
        found.load_weights(self)
        fit = found.manifest["fit"]
        self.epochs_done, self.fits_done = found.manifest["epochs_done"], fit["number"]
        self.steps_done = fit["steps_before"]
        self.data.train.bad_items.update({int(k): v for k, v in found.manifest["bad_items"].items()})
        LOG.info("%s", describe(found))
        return found

    def _engine_run(
        self, optimizer: Optimizer, schedules: Mapping[str, Schedule], state: TrainState, callbacks: Sequence[Callback]
    ) -> EngineRun | None:
        """Return what the model's engine is to train, or None where the loop trains."""
        engine = self.parts.engine
        if engine is None:
            return None
        run = EngineRun(
            module=self.module,
            loader=self.data.train,
            optimizer=optimizer,
            schedules=schedules,
            objective=self.objective,
            state=state,
            device=self.session.device,
            seed=self.seed,
        )
        several = f"{self.session.processes.world} processes train together" * (self.session.processes.world > 1)
        reason = several or listeners(callbacks) or engine.refuses(run)
        if reason is None:
            return run
        if engine.required:
            raise OptionError(f"{self.model_id or type(self.module).__name__} cannot be trained so: {reason}")
        LOG.warning("%s does not train here, since %s; the loop trains instead", type(engine).__name__, reason)
        return None

    def _epochs(self, loop: Loop, epochs: int, run: EngineRun | None, start: Start | None) -> None:
        """Run the epochs; whatever happens, `fit_end` is told."""
        state, table = loop.state, loop.table
        try:
            for handler in table.fit_start:
                handler(state)
            if start is not None and not start.place.inside:
                start.restore()
            for epoch in range(0 if start is None else start.place.epoch, epochs):
                if loop.stops():
                    break
                state.epoch = epoch
                self._epoch(loop, run, start)
                start = None
        except BaseException as error:
            state.error = error
            for handler in table.error:
                handler(state)
            raise
        finally:
            for handler in table.fit_end:
                handler(state)

    def _epoch(self, loop: Loop, run: EngineRun | None, start: Start | None) -> None:
        state = loop.state
        state.record, state.position = {"epoch": self.epochs_done + 1}, 0
        for handler in loop.table.epoch_start:
            handler(state)
        if run is not None and self.parts.engine is not None:
            loop.train_by(self.parts.engine, run, self.epochs_done)
        elif start is not None and start.place.inside:
            stopped = start.found.manifest["fit"]["stopped"] is not None
            part = self.session.processes.part
            batches = () if stopped else self.data.train.at(self.epochs_done, start.place.batch, part)
            loop.train(batches, self.epochs_done, start=start.place.index + 1, entered=start.restore)
        else:
            loop.train(self.data.train.at(self.epochs_done, part=self.session.processes.part), self.epochs_done)
        share_bad_items(self.session.processes, self.data.train)
        if self.data.valid is not None:
            loop.validate(self.data.valid)
        self.epochs_done += 1
        for handler in loop.table.epoch_end:
            handler(state)

    def make_optimizer(self, lr: float, wd: float | None = None, *, parts: ModelParts | None = None) -> Optimizer:
        """Return a fresh optimizer over the parameters that learn, in their named groups."""
        parts = parts or self.parts
        groups = [
            ParamGroup(name=name, params=[p for p in params if p.requires_grad])
            for name, params in parts.parameter_groups().items()
        ]
        groups = [group for group in groups if group.params]
        if not groups:
            raise FreezeError("every parameter is frozen, so there is nothing to train; call unfreeze() first")
        return make_optimizer(self.optimizer, groups, lr=lr, wd=self.wd if wd is None else wd, module=parts.module)

    def freeze(self) -> None:
        """Freeze all parameter groups but the last; raise FreezeError if there is only one."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Let all parameters learn."""
        freeze_groups(self.parts, 0, train_norm=self.train_norm)

    def freeze_to(self, group: int | str) -> None:
        """Freeze the groups before `group`, a name or a position as in a list."""
        freeze_groups(self.parts, group, train_norm=self.train_norm)

    def lr_find(
        self, *, start_lr: float = 1e-7, end_lr: float = 10.0, num_steps: int = 100, stop_diverging: bool = True
    ) -> Sweep:
        """Sweep the learning rate on a copy of the model; this learner and all random state stay as they are."""
        from graftwork.lr_find import sweep

        return sweep(self, start_lr=start_lr, end_lr=end_lr, num_steps=num_steps, stop_diverging=stop_diverging)

    # -- looking and using ---------------------------------------------------------------------------------------

    def _loader(self, loader: Loader | None) -> Loader:
        loader = self.data.valid if loader is None else loader
        if loader is None:
            raise DataError("nothing was held out for validation; pass a loader, for example data.test_dl(items)")
        return loader

    def validate(self, loader: Loader | None = None) -> dict[str, float]:
        """Return valid_loss and the metrics on the validation split, or on another loader with targets."""
        return evaluate(self.feed, self.objective, self._loader(loader))

    def get_preds(self, loader: Loader | None = None) -> Predictions:
        """Return predictions for the validation split or another loader, in the order of its items."""
        return collect(self.feed, self.objective, self._loader(loader))

    def iter_preds(self, loader: Loader | None = None) -> Iterator[Predictions]:
        """Give the predictions of `get_preds` batch by batch, on the device; none is kept, however many there are."""
        return each_batch(self.feed, self.objective, self._loader(loader))

    def tta(
        self, loader: Loader | None = None, *, n: int = 4, beta: float = 0.25, use_max: bool = False
    ) -> Predictions:
        """Return predictions averaged over `n` passes with the training split's random transforms (fastai's rule).

        The plain prediction counts `beta`, the mean of the passes the rest; with `use_max` the largest of all is taken.
        What is drawn depends on the seeds alone. Raises OptionError if nothing is random, or the target moves along.
        """
        from graftwork.tta import tta

        return tta(self.feed, self.objective, self._loader(loader), n=n, beta=beta, use_max=use_max)

    def predict(self, x: Any) -> Prediction:
        """Return what the model says about one thing: an input's raw value, or a mapping of several inputs' values."""
        from graftwork.predictor import predict_one

        return predict_one(self.feed, x)

    def show_results(self, loader: Loader | None = None, *, max_n: int = 9) -> Figure:
        """Draw samples with their target and, below it, the prediction."""
        from graftwork.results import show_results

        return show_results(self.feed, self.objective, self._loader(loader), max_n=max_n)

    def summary(self) -> Page:
        """Return a table of the layers: output shape, parameters, whether they learn."""
        from graftwork.results import layer_table

        return Page(layer_table(self.feed, self.data.one_batch()))

    def _repr_html_(self) -> str:
        """Show in a notebook what is trained, and how far it has come."""
        from graftwork.results import learner_html

        return learner_html(self)

    def export(self, path: str | Path = "model.graft", *, task: Mapping[str, Any] | None = None) -> Path:
        """Write one file that `load_learner` reads without the data and without this program.

        Raises:
            OptionError: the model was not given by name.
        """
        from graftwork.artifact import export

        return export(self, Path(path), task=task)
