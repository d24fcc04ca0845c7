"""A probe whose name without the prefix claims the good probe's namespace."""

from __future__ import annotations

raise AssertionError("a plugin without a right to its name was imported")
