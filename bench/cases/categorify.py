"""Vocabularies fitted on the first four fifths of a table, sorted, and the codes of all its rows; unseen values get 0.

The large table (5 million rows, 10 columns) is read into memory; each side then encodes it once, in a process that has
encoded some rows before, so that nothing is imported or compiled on the way. Measured are wall time and by how much
memory grew at its peak, codes included. The small table starts as a pandas frame, and its numbers are scaled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

from bench import tables
from bench.harness import Check, Options, Report, Runner, Side, ratios

__all__ = ["SIDES", "measure"]

FULL: Final = {"rows": 5_000_000, "repeats": 30}
SMOKE: Final = {"rows": 20_000, "repeats": 2}
ROUNDS: Final = 5
WARM_ROWS: Final = 1000
OUR_WARM_ROWS: Final = 600_000  # from half a million rows on columns are partitioned, by kernels of their own
OURS: Final = "graftwork"
ARROW: Final = ("pyarrow, index_in", "pyarrow, dictionary")
SLOW: Final = ("scikit-learn",)
ELSEWHERE: Final = ("fastai", "polars")
TARGETS: Final = {"pyarrow": 2.2, "fastai": 6.5, "scikit-learn": 50.0}
Settings = dict[str, Any]
Found = dict[str, list[dict[str, Any]]]


def graftwork(table: Any) -> tables.Encoded:
    """Encode with graftwork's engine; the code of missing values is left as it is, for there are none."""
    import numpy as np

    from graftwork_tabular.vocab import fit_encode

    train = np.arange(tables.train_rows(len(table)))
    vocabs, codes = fit_encode(tables.columns_of(table), train=train, threads=2)
    return {name: (len(vocabs[name]), codes[name]) for name in vocabs}


def small_graftwork(frame: Any) -> object:
    """Encode text and scale numbers."""
    import numpy as np
    import pyarrow as pa

    from graftwork_tabular.statistics import Moments
    from graftwork_tabular.vocab import fit_encode

    table = pa.Table.from_pandas(frame, preserve_index=False)
    rows = tables.train_rows(len(table))

    def scaled(name: str) -> Any:
        values, moments = table[name].to_numpy().astype(np.float64), Moments()
        moments.update(values[:rows])
        return ((values - moments.mean) / moments.std).astype(np.float32)

    encoded = fit_encode(tables.columns_of(table, tables.CATEGORIES), train=np.arange(rows))
    return [encoded, [scaled(name) for name in tables.NUMBERS]]


def large(encode: Callable[[Any], tables.Encoded], warm_rows: int = WARM_ROWS) -> Callable[[Settings], dict[str, Any]]:
    """Make a side that encodes the large table."""

    def side(settings: Settings) -> dict[str, Any]:
        table = tables.read(settings["large"])
        encode(table.slice(0, warm_rows))
        held = tables.reset_peak()
        begin, spent = perf_counter(), process_time()
        encoded = encode(table)
        seconds, spent = perf_counter() - begin, process_time() - spent
        more = tables.peak_megabytes() - held
        return {"value": seconds, "cpu": spent, "peak": more, "codes": tables.checksums(encoded)}

    return side


def small(encode: Callable[[Any], object]) -> Callable[[Settings], dict[str, Any]]:
    """Make a side that encodes the small table; its value is the median of some repeats, in ms."""

    def side(settings: Settings) -> dict[str, Any]:
        import pandas as pd

        frame = pd.read_csv(settings["small"], na_values="?", skipinitialspace=True)
        encode(frame)
        times = []
        for _ in range(settings["repeats"]):
            begin = perf_counter()
            encode(frame)
            times.append((perf_counter() - begin) * 1000)
        return {"value": median(times)}

    return side


def _peer(name: str) -> str | None:
    return name if name in ELSEWHERE else None


LARGE: Final = (
    Side(name=OURS, run=large(graftwork, OUR_WARM_ROWS)),
    *(Side(name=name, run=large(run), peer=_peer(name)) for name, run in tables.PEERS.items()),
)
SMALL: Final = (
    Side(name=f"small, {OURS}", run=small(small_graftwork)),
    *(Side(name=f"small, {name}", run=small(run), peer=_peer(name)) for name, run in tables.SMALL_PEERS.items()),
)
SIDES: Final = (*LARGE, *SMALL)


def measure(options: Options) -> Report:
    """Run the sides in turn, the slow ones once, and compare."""
    runner, report = Runner(case="categorify", options=options), Report(case="categorify", smoke=options.smoke)
    settings = dict(SMOKE if options.smoke else FULL)
    with tempfile.TemporaryDirectory(prefix="bench-tables-") as folder:
        path = Path(folder) / "large.arrow"
        tables.large_table(path, settings["rows"])
        small_path, what = tables.small_table(Path(folder))
        whole: Settings = {**settings, "large": str(path), "small": str(small_path)}
        rounds = 1 if options.smoke else ROUNDS
        found = runner([side for side in LARGE if side.name not in SLOW], whole, rounds=rounds)
        slowly = Runner(case="categorify", options=replace(options, rounds=1), notes=runner.notes)
        once = slowly([side for side in LARGE if side.name in SLOW], whole, rounds=1)
        shorter = runner(SMALL, whole, rounds=rounds)
    report.notes += [*runner.notes, f"small is {what}"]
    _large_figures(report, found, once)
    _small_figures(report, shorter)
    return report


def _large_figures(report: Report, found: Found, once: Found) -> None:
    for name, results in {**found, **once}.items():
        base = OURS if name in found and name != OURS else None
        report.add(name, [result["value"] for result in results], "s", base=base)
    if OURS in found:
        _speed(report, found, once)
        _memory(report, found)
        _processor_time(report, {**found, **once})
        _agreement(report, found[OURS][0]["codes"], {**found, **once})


def _speed(report: Report, found: Found, once: Found) -> None:
    arrow = _faster_arrow(report, found)
    for what, name in (("pyarrow", arrow), ("fastai", "fastai"), ("polars", "polars"), ("pandas", "pandas")):
        if name in found:
            ratio = ratios(report.values(name), report.values(OURS)).median
            report.checks.append(Check(what=f"{name} / {OURS}", value=ratio, target=TARGETS.get(what), better="high"))
    for name, results in once.items():
        ratio = results[0]["value"] / median(report.values(OURS))
        report.checks.append(Check(what=f"{name} / {OURS}", value=ratio, target=TARGETS[name], better="high"))


def _faster_arrow(report: Report, found: Found) -> str | None:
    return min((name for name in ARROW if name in found), key=lambda name: median(report.values(name)), default=None)


def _memory(report: Report, found: Found) -> None:
    peaks = {name: median(result["peak"] for result in results) for name, results in found.items()}
    told = ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items())
    report.notes.append(f"memory at the peak, MB more than before: {told}")
    arrow = _faster_arrow(report, found)
    if arrow is not None and peaks[arrow]:
        what = f"peak memory, {OURS} / {arrow}"
        report.checks.append(Check(what=what, value=peaks[OURS] / peaks[arrow], target=1.0))


def _processor_time(report: Report, found: Found) -> None:
    """Tell what a busy machine changes little: the time that both cores spent on it together."""
    spent = {name: median(result["cpu"] for result in results) for name, results in found.items()}
    report.notes.append(f"processor time, s: {', '.join(f'{name} {seconds:.2f}' for name, seconds in spent.items())}")


def _agreement(report: Report, ours: dict[str, Any], found: Found) -> None:
    """Count the columns whose codes a side shares; fastai's are others, as it gives unseen values codes."""
    for name, results in found.items():
        if name not in (OURS, "fastai"):
            same = sum(results[0]["codes"][column] == codes for column, codes in ours.items())
            what = f"columns coded as by {name}"
            report.checks.append(Check(what=what, value=same, target=len(ours), better="high"))


def _small_figures(report: Report, found: Found) -> None:
    ours = f"small, {OURS}"
    for name, results in found.items():
        report.add(name, [result["value"] for result in results], "ms", base=None if name == ours else ours)
    for name in found:
        if ours in found and name != ours:
            ratio = ratios(report.values(name), report.values(ours)).median
            report.checks.append(Check(what=f"{name} / graftwork", value=ratio, target=1.0, better="high"))
