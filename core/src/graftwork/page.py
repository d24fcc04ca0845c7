"""Text of several lines that a prompt or a notebook shows as it is, not in quotes with \\n in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Page", "columns"]


class Page(str):
    """Be a string whose repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the text."""
        return str(self)


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows under a header, each column as wide as its widest cell and the last as wide as it likes."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)
