"""TensorBoard, MLflow and Weights & Biases as trackers. Each is imported when its tracker is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Literal, Self, final

from graftwork.callbacks.tracking import Status, Tracker, imported
from graftwork.errors import OptionError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MLflow", "TensorBoard", "WandB"]

MLFLOW_STATUS: Final = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@final
class TensorBoard(Tracker):
    """Write event files into a folder: `tensorboard --logdir FOLDER`. A resumed run takes back later steps.

    With `anew` a run that is begun once more takes back all that the folder holds; otherwise another run is refused.
    """

    def __init__(
        self,
        folder: str | Path = "tensorboard",
        *,
        anew: bool = False,
        every: int = 10,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a folder of this run's own; it is made when training begins."""
        super().__init__(every=every, config=config)
        self.folder, self.anew = Path(folder), anew
        imported("tensorboard", "tensorboard")
        self._module: Any = imported("torch.utils.tensorboard", "tensorboard")
        self._writer: Any = None

    @classmethod
    def of_run(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Write into the run folder."""
        return cls(folder / "tensorboard", anew=True, config=config)

    def _open(self, run_id: str | None) -> str:
        there = any(self.folder.glob("*tfevents*"))
        if there and run_id is None and not self.anew:
            raise OptionError(
                f"{self.folder} holds another run, and the curves would mix; give an empty folder, or anew=True"
            )
        self._writer = self._module.SummaryWriter(self.folder, purge_step=self.step + 1 if there else None)
        return self.folder.name

    def _configure(self, values: Mapping[str, Any]) -> None:
        rows = "\n".join(f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in values.items())
        self._writer.add_text("config", f"| name | value |\n|---|---|\n{rows}", 0)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _show(self, name: str, pixels: np.ndarray[Any, np.dtype[np.uint8]], step: int) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def _close(self, status: Status, why: str) -> None:
        self._writer.add_text("status", f"{status} {why}".strip(), self.step)
        self._writer.close()


@final
class MLflow(Tracker):
    """Track in MLflow: at `tracking_uri`, by default where MLflow itself would look, without changing its globals."""

    def __init__(
        self,
        experiment: str = "graftwork",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        every: int = 10,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Take an experiment's name; it is made if it is not there."""
        super().__init__(every=every, config=config)
        self.experiment, self.tracking_uri, self.run_name = experiment, tracking_uri, run_name
        self._module: Any = imported("mlflow", "mlflow")
        self._client: Any = None

    @classmethod
    def of_run(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Name the run like its folder."""
        return cls(run_name=folder.name, config=config)

    def _open(self, run_id: str | None) -> str:
        self._client = client = self._client or self._module.MlflowClient(tracking_uri=self.tracking_uri)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
            epochs = [int(metric.value) for metric in client.get_metric_history(run_id, "epoch/number")]
            self.step, self.epoch = max([self.step, *steps]), max([self.epoch, *epochs])
            return run_id
        found = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
        return str(client.create_run(experiment, run_name=self.run_name).info.run_id)

    def _configure(self, values: Mapping[str, Any]) -> None:
        params = [self._module.entities.Param(n, str(v)) for n, v in values.items()]
        for start in range(0, len(params), 100):  # as many as a server takes at once
            self._client.log_batch(self.run_id, params=params[start : start + 100])

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = time_ns() // 1_000_000
        metrics = [self._module.entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _show(self, name: str, pixels: np.ndarray[Any, np.dtype[np.uint8]], step: int) -> None:
        self._client.log_image(self.run_id, pixels, artifact_file=name if name.endswith(".png") else f"{name}.png")

    def _close(self, status: Status, why: str) -> None:
        if why:
            self._client.set_tag(self.run_id, "why", why)
        self._client.set_terminated(self.run_id, MLFLOW_STATUS[status])


@final
class WandB(Tracker):
    """Track in Weights & Biases; `mode="offline"` writes below `folder` only, to be sent later by `wandb sync`.

    A second fit and a resumed run are parts of the same run. Offline, each part is a folder with the run's id.
    """

    def __init__(
        self,
        project: str = "graftwork",
        *,
        name: str | None = None,
        folder: str | Path | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        every: int = 10,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a project's name; without a `mode` wandb decides, by WANDB_MODE."""
        super().__init__(every=every, config=config)
        self.project, self.name, self.mode = project, name, mode
        self.folder = None if folder is None else Path(folder)
        self._module: Any = imported("wandb", "wandb")
        self._run: Any = None

    @classmethod
    def of_run(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Name the run like its folder, and write there."""
        return cls(name=folder.name, folder=folder, config=config)

    def _open(self, run_id: str | None) -> str:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._run = self._module.init(
            project=self.project,
            name=self.name,
            dir=None if self.folder is None else str(self.folder),
            mode=self.mode,
            id=run_id,
            resume=None if run_id is None or self.mode == "offline" else "allow",
            reinit="create_new",
            settings=self._module.Settings(console="off", silent=True),
        )
        return str(self._run.id)

    def _configure(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values))

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def _show(self, name: str, pixels: np.ndarray[Any, np.dtype[np.uint8]], step: int) -> None:
        self._run.log({name.removesuffix(".png"): self._module.Image(pixels)}, step=step)

    def _close(self, status: Status, why: str) -> None:
        self._run.summary.update({"status": status, "why": why})
        self._run.finish(exit_code=int(status == "failed"))
