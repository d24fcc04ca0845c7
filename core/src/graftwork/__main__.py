"""Run the command line: `python -m graftwork` is `graft`."""

from __future__ import annotations

from graftwork.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
