"""Text of several lines that a prompt or a notebook shows as it is, not in quotes with \\n in it."""

from __future__ import annotations

__all__ = ["Page"]


class Page(str):
    """Be a string whose repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the text."""
        return str(self)
