"""Run one side of a case in this process: `python -m bench.side CASE SIDE SETTINGS RESULT`. The harness calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.cases import load


def main(case: str, name: str, settings: str, result: str) -> None:
    """Run a side and write what it gives to the file `result`."""
    side = next(side for side in load(case).SIDES if side.name == name)
    found = side.run(json.loads(settings))
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
