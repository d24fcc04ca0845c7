"""The folder of a run: what is in it, written so that a kill at any moment leaves whole files.

config.json says what was asked for, and once training can begin also what was found out on the way: the learning rate
and the baselines. report.json is the last file to be written: a run that has one is finished.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from graftwork.container import replacing
from graftwork.errors import ArtifactError, OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.learner import Learner

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "REPORT",
    "Report",
    "alone_in",
    "begun_run",
    "check_space",
    "clear_leftovers",
    "finished",
    "prepare_run",
    "read_config",
    "removed_unless_begun",
    "started_again",
    "write_config",
    "write_csv",
    "write_picture",
    "write_report",
]

CONFIG: Final = "config.json"
REPORT: Final = "report.json"
CHECKPOINTS: Final = "checkpoint"
FIGURES: Final = ("baseline", "baselines", "epochs", "metrics")
RUN_BYTES_TO_SPARE: Final = 16 * 2**20
CHECKPOINTS_KEPT: Final = 4  # the last two, the best one, and one that is being written


@dataclass(slots=True, kw_only=True)
class Report:
    """Hold what came out of a job, as `graft train --json` prints it."""

    task: str
    run: str
    artifact: str
    seed: int
    rows: dict[str, int]
    metrics: dict[str, float]
    baseline: dict[str, Any]
    baselines: list[dict[str, Any]]
    epochs: list[dict[str, float]]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], run: Path) -> Self:
        """Read `to_json`'s values as they lie in a run's folder, which may have been moved."""
        report = cls(**{f.name: values[f.name] for f in fields(cls)})
        report.run, report.artifact = str(run), str(run / Path(report.artifact).name)
        report.pictures = [str(run / Path(picture).name) for picture in report.pictures]
        return report


def prepare_run(out: Path | None, task_id: str) -> Path:
    """Return a new run folder in which files can be written; raise OptionError before any work is done if not."""
    folder = _next_run(task_id) if out is None else out
    if (folder / CONFIG).is_file():
        raise OptionError(
            f"--out {folder} holds a run already; go on with it by `graft resume {folder}`, or choose another name"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"--out {folder} is there already and is no empty folder; choose another name, or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"graftwork")
        probe.unlink()
    except OSError as error:
        raise OptionError(
            f"--out {folder} cannot be written: {error.strerror or error}; choose another folder"
        ) from error
    return folder


def _next_run(task_id: str) -> Path:
    stem, number = task_id.replace("/", "-"), 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"


def started_again() -> bool:
    """Say whether torchrun has started this program again, because one of its processes failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def begun_run(out: Path | None, task_id: str) -> Path | None:
    """Return the run that was begun before, here the last of its task unless a folder is named; None if none was."""
    stem = task_id.replace("/", "-")
    runs = [out] if out is not None else sorted(Path("runs").glob(f"{stem}-*"), key=lambda p: (len(p.name), p.name))
    begun = [folder for folder in runs if (folder / CONFIG).is_file()]
    return begun[-1] if begun else None


def check_space(folder: Path, learner: Learner) -> None:
    """Raise OptionError if the artifact, which is briefly there twice, and the checkpoints will not fit on the disk."""
    weights = sum(t.numel() * t.element_size() for t in learner.module.state_dict().values())
    # A model that is solved has no optimizer's moments in its checkpoints.
    moments = 0 if learner.parts.engine is not None and learner.parts.engine.required else 2
    needed = (2 + CHECKPOINTS_KEPT * (1 + moments)) * weights + RUN_BYTES_TO_SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OptionError(
            f"--out {folder}: {free / 1e6:.0f} MB are free, and the run needs about {needed / 1e6:.0f} MB; "
            "make room or choose another folder"
        )


# --- what is asked for and what came out ------------------------------------------------------------------------------


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Write down what the run is to do."""
    _write_json(run / CONFIG, config)


def read_config(run: Path) -> dict[str, Any]:
    """Return what a run is to do.

    Raises:
        ArtifactError: the folder is no run, or its config.json is not what `graft train` wrote.
    """
    path = run / CONFIG
    if not path.is_file():
        what = f"has no {CONFIG}" if run.is_dir() else "is no folder"
        raise ArtifactError(f"{run} is no run: it {what}; give a folder that `graft train` made, such as runs/…")
    config = _read_json(path)
    if not isinstance(config.get("task"), dict) or not {"id", "config"} <= set(config["task"]):
        raise ArtifactError(f"{path} names no task; it is not what `graft train` wrote")
    if not isinstance(config.get("source"), str) or not isinstance(config.get("job"), dict):
        raise ArtifactError(f"{path} names no source or no options; it is not what `graft train` wrote")
    return config


def write_report(run: Path, report: Report) -> None:
    """Write down what came out; from then on the run is finished."""
    _write_json(run / REPORT, report.to_json())


def finished(run: Path) -> Report | None:
    """Return what came out of a run, None if it is not finished."""
    if not (run / REPORT).is_file():
        return None
    try:
        return Report.from_json(_read_json(run / REPORT), run)
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{run / REPORT} lacks {error}; remove it, and `graft resume {run}` writes it anew"
        ) from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(_plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n"
    with replacing(path) as file:
        file.write(text.encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds no JSON object")
    return {name: _figures(inner) if name in FIGURES else inner for name, inner in value.items()}


def _plain(value: Any) -> Any:
    """Write what is no finite number as text: JSON has none."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _figures(value: Any) -> Any:
    """Read back what `_plain` wrote."""
    if isinstance(value, dict):
        return {key: _figures(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_figures(inner) for inner in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


# --- other files ------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; its columns are those of the first row and what later ones add."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def write_picture(path: Path, figure: Figure) -> Path:
    """Write a figure in the format its file's name says."""
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format=path.suffix[1:])
    return path


def clear_leftovers(run: Path) -> None:
    """Remove what a killed process had begun to write."""
    for torn in run.glob(".*.part"):
        torn.unlink(missing_ok=True)


def has_begun(run: Path) -> bool:
    """Say whether a run has come so far that training could begin."""
    return "lr" in read_config(run)


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep a second process from working on the same run, where the system can lock a folder (not on Windows).

    Raises:
        OptionError: another process works on it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OptionError(f"another process works on {run}; wait for it, or stop it first") from error
    finally:
        os.close(folder)  # lets go of the lock, as the end of a process does


@contextmanager
def removed_unless_begun(run: Path) -> Iterator[None]:
    """Take a run folder away again if an error comes before there is anything to go on from."""
    try:
        yield
    except BaseException:
        clear_leftovers(run)
        if [path.name for path in run.iterdir()] == [CONFIG] and not has_begun(run):
            (run / CONFIG).unlink()
        if not any(run.iterdir()):
            run.rmdir()
        raise
