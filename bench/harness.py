"""The harness: sides that run in alternating processes, paired statistics, and what is printed of them.

A side is one way to do a job (a raw loop, graftwork, a peer). All sides of a case run once a round, each in a process
of its own, but in smoke runs, since importing one framework may slow another; every other round goes backwards. What
is reported of two sides is the median over rounds of their ratio or difference within a round, so that a machine that
becomes busy on the way hardly matters. Only the standard library is used here: peers' interpreters import this module.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Check",
    "Line",
    "Options",
    "Report",
    "Runner",
    "Side",
    "Spread",
    "alternate",
    "differences",
    "machine",
    "native_bf16",
    "ratios",
    "say",
    "slope",
    "wait_until_idle",
]

ROOT = Path(__file__).parents[1]
CHILD_MINUTES = 30
IDLE_SHARE = 0.95


# -- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Sum up repeated measurements: median, quartiles, least."""

    median: float
    low: float
    high: float
    least: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up one value or more; quartiles lie between values, as in `statistics.quantiles(method="inclusive")`."""
        if len(values) == 1:
            low = high = values[0]
        else:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=statistics.median(values), low=low, high=high, least=min(values), count=len(values))


def ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Sum up value / base, round by round."""
    return Spread.of([value / other for value, other in zip(values, base, strict=True)])


def differences(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Sum up value - base, round by round."""
    return Spread.of([value - other for value, other in zip(values, base, strict=True)])


def slope(measure: Callable[[int], float], short: int, long: int, *, repeats: int) -> float:
    """Return the median cost of one step more, from `measure(steps)` of a short and a long run: starts cancel out."""
    costs = [(measure(short), measure(long)) for _ in range(repeats)]
    return statistics.median((after - before) / (long - short) for before, after in costs)


def alternate(measures: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Call measures in turn, every other round backwards; the first `warm_up` rounds do not count."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(warm_up + rounds):
        for name in ordered(list(measures), turn):
            value = measures[name]()
            if turn >= warm_up:
                found[name].append(value)
    return found


def ordered(names: Sequence[str], turn: int) -> list[str]:
    """Return names forwards in even rounds and backwards in odd ones."""
    return list(names if turn % 2 == 0 else reversed(names))


# -- sides in their own processes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Hold what the command line says. A smoke run shows in seconds that a case works; its figures say nothing."""

    smoke: bool = False
    rounds: int | None = None
    peer_python: str = sys.executable
    accuracy: bool = False
    only: tuple[str, ...] = ()
    wait_minutes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Name one way to do a job: `run(settings)` in the child gives a dict with a "value".

    `peer` is the module it needs from the peers' interpreter. With `terminal` its output goes to a pseudo-terminal.
    `threads` limits torch's.
    """

    name: str
    run: Callable[[dict[str, Any]], dict[str, Any]]
    peer: str | None = None
    terminal: bool = False
    threads: int | None = None


@dataclass(slots=True, kw_only=True)
class Runner:
    """Run the sides of a case in turn."""

    case: str
    options: Options
    notes: list[str] = field(default_factory=list)

    def __call__(
        self, sides: Sequence[Side], settings: Mapping[str, Any], *, rounds: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Return what each side gave, round by round; a peer that is not installed is left out, and that is noted."""
        chosen = [side for side in sides if self._wanted(side)]
        by_name = {side.name: side for side in chosen}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in by_name}
        for turn in range(self.options.rounds or rounds):
            wait_until_idle(self.options.wait_minutes)
            for name in ordered(list(by_name), turn):
                found[name].append(self.child(by_name[name], settings))
                say(f"  round {turn + 1}: {name} {found[name][-1]['value']:.5g}")
        return found

    def _wanted(self, side: Side) -> bool:
        if self.options.only and side.name not in self.options.only:
            return False
        if side.peer is not None and (self.options.smoke or not _has(self.options.peer_python, side.peer)):
            self.notes.append(f"{side.name} was left out: {side.peer} is not installed, or this is a smoke run")
            return False
        return True

    def child(self, side: Side, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Run one side in a process and return its result; what it prints goes into an error if it fails.

        A smoke run's figures say nothing, so that it does without the seconds a process costs, but for terminals.
        """
        if self.options.smoke and not side.terminal:
            return {**side.run(dict(settings)), "output": ""}
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            result = Path(folder) / "result.json"
            python = sys.executable if side.peer is None else self.options.peer_python
            command = [python, "-m", "bench.side", self.case, side.name, json.dumps(dict(settings)), str(result)]
            run = _on_terminal if side.terminal else _captured
            status, output = run(command, _environment(side.threads))
            if status or not result.exists():
                raise RuntimeError(f"{self.case}: side {side.name!r} failed, status {status}:\n{output[-3000:]}")
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return {**found, "output": output}


def _has(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def _environment(threads: int | None) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "120", "PYTHONHASHSEED": "0"}
    env.pop("NO_COLOR", None)
    return env if threads is None else {**env, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _captured(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command, env=env, cwd=ROOT, text=True, check=False, timeout=CHILD_MINUTES * 60,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def _on_terminal(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run a command on a pseudo-terminal and return its status and all that it wrote there."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = bytearray()
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:
        pass  # Linux says so when the other end is closed
    finally:
        os.close(ours)
    return process.wait(), written.decode(errors="replace")


# -- the machine -----------------------------------------------------------------------------------------------------


def wait_until_idle(minutes: float) -> None:
    """Wait until all cores have been idle for two seconds, at most `minutes`; return at once where that is unknown."""
    end = time.monotonic() + minutes * 60
    while minutes and time.monotonic() < end and idle_share(2.0) < IDLE_SHARE:
        time.sleep(1)


def idle_share(seconds: float) -> float:
    """Return the share of the cores' time that nobody used; 1 where it is not told."""
    before = _cpu_ticks()
    time.sleep(seconds)
    spent = [after - then for after, then in zip(_cpu_ticks(), before, strict=True)]
    return (spent[3] + spent[4]) / sum(spent) if spent and sum(spent) else 1.0


def _cpu_ticks() -> list[int]:
    stat = Path("/proc/stat")
    return [int(n) for n in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]] if stat.exists() else []


def native_bf16(device: str = "cpu") -> bool:
    """Say whether a loop tuned by hand would take bfloat16: on a CPU that only emulates it, it is many times slower."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").split() if info.exists() else []
    return device != "cpu" or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def machine() -> dict[str, Any]:
    """Describe the machine in general terms."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": cores,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": installed("torch"),
        "graftwork": installed("graftwork"),
    }


# -- reports ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Hold what one side measured, round by round, and of which side it is a ratio."""

    name: str
    values: tuple[float, ...]
    unit: str
    base: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Hold a figure beside its target; without one it is only reported."""

    what: str
    value: float
    unit: str = ""
    target: float | None = None
    better: Literal["low", "high"] = "low"

    @property
    def met(self) -> bool | None:
        """Say whether the target was met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "low" else self.value >= self.target


@dataclass(slots=True, kw_only=True)
class Report:
    """Collect a case's lines and figures."""

    case: str
    smoke: bool
    lines: list[Line] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, values: Sequence[float], unit: str, *, base: str | None = None) -> None:
        """Add a side's measurements."""
        self.lines.append(Line(name=name, values=tuple(values), unit=unit, base=base))

    def values(self, name: str) -> tuple[float, ...]:
        """Return a side's measurements."""
        return next(line.values for line in self.lines if line.name == name)

    def has(self, *names: str) -> bool:
        """Say whether all these sides were measured."""
        return set(names) <= {line.name for line in self.lines}

    def table(self) -> str:
        """Return the table for the terminal."""
        width = max([24, *(len(line.name) for line in self.lines), *(len(c.what) for c in self.checks)])
        rows = [f"{self.case}{' (smoke run: the figures say nothing)' if self.smoke else ''}", ""]
        rows += [f"{'side':<{width}}{'median':>12}{'quartiles':>24}{'':>10}{'ratio':>9}{'difference':>13}"]
        rows += [self._row(line, width) for line in self.lines]
        rows += ["", f"{'figure':<{width}}{'measured':>12}{'target':>12}"] if self.checks else []
        rows += [_check_row(check, width) for check in self.checks]
        return "\n".join([*rows, *(f"note: {note}" for note in dict.fromkeys(self.notes))])

    def _row(self, line: Line, width: int) -> str:
        spread = Spread.of(line.values)
        quartiles = f"{_figure(spread.low)} … {_figure(spread.high)}"
        row = f"{line.name:<{width}}{_figure(spread.median):>12}{quartiles:>24}{line.unit:>10}"
        if line.base is None or not self.has(line.base):
            return row
        base = self.values(line.base)
        ratio, gap = ratios(line.values, base).median, differences(line.values, base).median
        return f"{row}{ratio:>9.3f}{gap:>+13.4g}  over {line.base}"

    def json_line(self) -> str:
        """Return the report as one line of JSON."""
        sides = {
            line.name: {"unit": line.unit, **asdict(Spread.of(line.values)), "values": line.values}
            for line in self.lines
        }
        whole = {
            "case": self.case,
            "date": datetime.now(UTC).date().isoformat(),
            "smoke": self.smoke,
            "machine": machine(),
            "sides": sides,
            "figures": [{**asdict(check), "met": check.met} for check in self.checks],
            "notes": list(dict.fromkeys(self.notes)),
        }
        return json.dumps(whole)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _check_row(check: Check, width: int) -> str:
    row = f"{check.what:<{width}}{_figure(check.value):>12}"
    if check.target is None:
        return f"{row}{'':>12} {check.unit}"
    sign = "<=" if check.better == "low" else ">="
    return f"{row}{f'{sign} {_figure(check.target)}':>12} {check.unit:<12}{'met' if check.met else 'MISSED'}"


def say(line: str) -> None:
    """Tell the person who waits how far it is; standard output is for results."""
    print(line, file=sys.stderr, flush=True)
