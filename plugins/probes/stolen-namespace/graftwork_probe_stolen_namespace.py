"""A probe that claims the namespace of a plugin by somebody else."""

from __future__ import annotations

raise AssertionError("a plugin without a right to its name was imported")
