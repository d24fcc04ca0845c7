"""HistoryFile: the table of epochs as a file, line by line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, final

from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState

__all__ = ["HistoryFile"]


@final
class HistoryFile(Callback):
    """Write a line for every epoch into a `.csv` or `.jsonl` file, at once, so that it can be followed.

    One file holds all fits of the callback, as the two of `fine_tune`; the first epoch replaces an older file. Numbers
    are written whole; what is no finite number is empty in CSV, null in JSONL. A resumed run's file has the lines from
    before and no line twice. (fastai's CSVLogger begins anew with each fit.)
    """

    order = -800  # `_end` events run in reverse: the epoch's line is complete
    needs_batches: ClassVar[bool] = False
    first_only: ClassVar[bool] = True

    def __init__(self, path: str | Path = "history.csv") -> None:
        """Take the file's name; raise OptionError if it says no format."""
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".jsonl"):
            raise OptionError(f"history file {str(path)!r}: the name must end in .csv or .jsonl")
        self.rows: list[dict[str, float | None]] = []
        self._columns: list[str] = []

    def epoch_end(self, state: TrainState) -> None:
        """Add the epoch's line; a column that is new has the file written anew."""
        row = {name: float(v) if math.isfinite(v) else None for name, v in state.record.items()}
        row["epoch"] = int(state.record["epoch"])
        self.rows.append(row)
        columns = [*self._columns, *(name for name in row if name not in self._columns)]
        if columns != self._columns:
            self._columns = columns
            header = [",".join(columns) + "\n"] if self.path.suffix == ".csv" else []
            self._write("".join([*header, *map(self._line, self.rows)]), mode="w")
        else:
            self._write(self._line(row), mode="a")

    def _line(self, row: Mapping[str, float | None]) -> str:
        if self.path.suffix == ".jsonl":
            return json.dumps(row) + "\n"
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerow([row.get(name) for name in self._columns])
        return text.getvalue()

    def _write(self, text: str, *, mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise OptionError(f"history file {self.path} cannot be written: {error.strerror or error}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return the lines so far."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know the lines so far; the next epoch writes all of them."""
        self.rows, self._columns = [dict(row) for row in state["rows"]], []
