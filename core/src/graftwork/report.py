"""The page of a run: one file that holds everything, without scripts, to read, print or send."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import shlex
import struct
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from graftwork.container import replacing

if TYPE_CHECKING:
    import torch

    from graftwork.run import Report

__all__ = ["environment", "write_page"]

PAGE: Final = "report.html"
TIMES: Final = ("prepare", "train", "total")
TITLES: Final = {
    "batch.png": "What the model sees",
    "confusion.png": "What is taken for what",
    "losses.png": "Losses and learning rate",
    "lr_find.png": "Learning-rate range test",
    "metrics.png": "Metrics beside the baselines",
    "results.png": "Targets and predictions",
    "top_losses.png": "Where it is most wrong",
}
CURVES: Final = ("losses.png", "metrics.png", "lr_find.png")
LONGEST: Final = 80
"""Letters of an option's value."""
LIBRARIES: Final = frozenset({"numpy", "torch", "torchvision"})


def environment(device: torch.device) -> dict[str, Any]:
    """Say on what a run is made: machine, device, versions."""
    import torch

    said: dict[str, Any] = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }
    versions = {(d.name or "").lower(): d.version for d in distributions()}
    kept = {n: v for n, v in sorted(versions.items()) if n in LIBRARIES or n.split("-")[0] == "graftwork"}
    return said | {"python": platform.python_version(), **kept}


def write_page(run: Path, report: Report) -> Path:
    """Write `report.html` into a run folder, of what is in it and the job's report.

    Everything is escaped, pictures are inlined, and nothing is loaded from elsewhere.
    """
    import jinja2

    template = Path(__file__).with_name("report_page.html").read_text(encoding="utf-8")
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    engine.filters["number"] = _number
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    page = engine.from_string(template).render(_facts(run, report, config))
    with replacing(run / PAGE) as file:
        file.write(page.encode())
    return run / PAGE


def _facts(run: Path, report: Report, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows, as plain values."""
    pictures = [_picture(run / Path(path).name) for path in report.pictures]
    profile, columns = run / "profile.txt", _columns(run, report)
    names = [name for name in columns if name in report.metrics]
    return {
        "report": report,
        "name": run.name,
        "command": _command(config),
        "scores": _scores(report, names, config["metrics"]),
        "verdict": _verdict(report, names, config["metrics"]),
        "curves": [p for p in pictures if p["file"] in CURVES],
        "pictures": [p for p in pictures if p["file"] not in CURVES],
        "columns": columns,
        "facts": {
            "Data": {
                "source": config["source"],
                "to train on": f"{report.rows['train']:,} items",
                "to validate on": f"{report.rows['valid']:,} items",
            },
            "Model": {
                "model": config["model"]["id"],
                **_flat(config["model"]["config"]),
                "parameters": f"{config['parameters']:,}",
                "loss": ", ".join(map(str, config["loss"].values())),
                "largest learning rate": f"{config['lr']:.3g}",
                "runs on": config["runs_on"],
                "artifact": Path(report.artifact).name,
            },
            "Asked for": _flat({"task": report.task, **config["job"], **config["task"]["config"]}),
            "Time": {name: _duration(report.seconds[name]) for name in TIMES if name in report.seconds},
            "Environment": {"seed": report.seed, **config["environment"]},
        },
        "profile": profile.read_text(encoding="utf-8") if profile.exists() else "",
    }


def _picture(path: Path) -> dict[str, Any]:
    title = TITLES.get(path.name, path.stem.replace("_", " ").capitalize())
    png = path.read_bytes()
    width, height = struct.unpack(">II", png[16:24])  # the header chunk comes first
    data = f"data:image/png;base64,{b64encode(png).decode('ascii')}"
    return {"file": path.name, "title": title, "data": data, "width": width, "height": height}


def _columns(run: Path, report: Report) -> list[str]:
    """Return the history's columns in their own order, which JSON does not keep: the first metric counts most."""
    history = run / "history.csv"
    if history.exists():
        with history.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])
    return list(report.epochs[-1]) if report.epochs else list(report.metrics)


def _scores(report: Report, names: Sequence[str], higher: Mapping[str, bool]) -> dict[str, Any]:
    """Return the table of metrics: the model first, then the baselines; each column's best is marked."""
    rows = [("this model", report.metrics)] + [(b["id"], b["metrics"]) for b in report.baselines]
    best = {n: _best((m[n] for _, m in rows if n in m), higher=higher[n]) for n in names if n in higher}
    cells = [
        (label, [{"value": m.get(n), "best": len(rows) > 1 and n in best and m.get(n) == best[n]} for n in names])
        for label, m in rows
    ]
    heads = [(n, "" if n not in higher else "↑" if higher[n] else "↓") for n in names]
    return {"heads": heads, "rows": cells}


def _best(values: Iterable[float], *, higher: bool) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return (max(finite) if higher else min(finite)) if finite else None


def _verdict(report: Report, names: Sequence[str], higher: Mapping[str, bool]) -> str:
    """Say in a sentence whether the model is better than the strongest baseline, by the first metric."""
    name = next((n for n in names if n in higher), None)
    if name is None or not report.baseline:
        return "There is no baseline to compare it with."
    mine, theirs = report.metrics[name], report.baseline["metrics"].get(name, math.nan)
    what = f"{name} {_number(mine)}; the strongest baseline, {report.baseline['id']}, has {_number(theirs)}"
    if mine == theirs:
        return f"No better than its strongest baseline: {what}."
    better = mine > theirs if higher[name] else mine < theirs
    return f"{'Better' if better else 'NOT better'} than its strongest baseline: {what}."


def _command(config: Mapping[str, Any]) -> str:
    """Return the command line that asks for the same, without what is the default."""
    from graftwork.plugins import get_host
    from graftwork.task import JobOptions

    task = config["task"]
    words = ["graft", "train", task["id"], config["source"]]
    own = fields(get_host().tasks.get(task["id"]).Options)
    common = [f for f in fields(JobOptions) if f.name not in {o.name for o in own}]  # a task's own option stands for it
    for known, values in ((own, task["config"]), (common, config["job"])):
        for f in known:
            words += _words(f.name, values.get(f.name, f.default), f.default)
    return shlex.join(words)


def _words(name: str, value: Any, default: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, list | tuple):
        return [word for part in value for word in (option, str(part))] if list(value) != list(default or ()) else []
    if value == default or value is None:
        return []
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    return [option, str(value)]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not there, join what is several, and cut what is long: config.json has it whole."""
    there = {name: value for name, value in values.items() if value not in (None, [], {}, "")}
    return {
        n: v if isinstance(v, int | float) else _cut(", ".join(map(str, v)) if isinstance(v, list) else str(v))
        for n, v in there.items()
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4f}" if math.isfinite(value) and 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"
    return "" if value is None else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
