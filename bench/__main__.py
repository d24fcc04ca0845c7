"""`python -m bench CASE`: measure, print a table, and one line of JSON. Without a case, list them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.cases import CASES, load
from bench.harness import Options, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.case is None:
        parser.print_usage()
        print("\n".join(["", *(f"  {name:<13}{what}" for name, what in CASES.items()), "  all          all but gpu"]))
        return 0
    options = Options(
        smoke=given.smoke,
        rounds=given.rounds,
        peer_python=given.peer_python,
        accuracy=given.accuracy,
        only=tuple(given.only or ()),
        wait_minutes=given.wait,
    )
    chosen = [case for case in CASES if case != "gpu"] if given.case == "all" else [given.case]
    return max([run(case, options) for case in chosen])


def run(case: str, options: Options) -> int:
    """Measure one case; return 1 if that was not possible. A missed target is no failure."""
    say(f"{case}: {CASES[case]}")
    try:
        report = load(case).measure(options)
    except RuntimeError as error:
        say(str(error))
        return 1
    print(f"\n{report.table()}\n\n{report.json_line()}", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure graftwork beside raw torch.")
    parser.add_argument("case", nargs="?", choices=[*CASES, "all"], metavar="CASE")
    parser.add_argument("--smoke", action="store_true", help="a few steps only, to see that the case works")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often every side runs (default: the case's own)")
    parser.add_argument("--only", action="append", metavar="SIDE", help="measure this side; may be repeated")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has requirements-peers.txt"
    )
    parser.add_argument("--accuracy", action="store_true", help="vision: train a few epochs and compare accuracies")
    parser.add_argument("--wait", type=float, default=0.0, metavar="MINUTES", help="wait that long for idle cores")
    return parser


if __name__ == "__main__":
    sys.exit(main())
