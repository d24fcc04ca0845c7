"""Every error graftwork raises on purpose.

GraftworkError
├── UserError            the caller can mend it: a path, an option, the data (exit status 2)
│   ├── ArtifactError    a file that is not, or not safely, one of ours
│   ├── BlockError       a value is not what its block says
│   ├── DataError        the data as a whole cannot be used
│   ├── FreezeError      freezing would change nothing, or names no group
│   ├── ItemError        one item cannot be read or encoded
│   ├── OptionError      an argument or option has an impossible value
│   ├── PlanError        blocks and transforms do not fit each other
│   ├── PluginError      a plugin is needed and missing, blocked or broken
│   └── UnknownName      a name that is not registered, with the nearest ones
└── TrainingError        training went wrong by itself: the loss is NaN, no batch was left (exit status 1)
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ArtifactError",
    "BlockError",
    "DataError",
    "FreezeError",
    "GraftworkError",
    "ItemError",
    "OptionError",
    "PlanError",
    "PluginError",
    "TrainingError",
    "UnknownName",
    "UserError",
    "unknown",
]


class GraftworkError(Exception):
    """Be the root of every error raised on purpose."""


class UserError(GraftworkError):
    """Say what the caller can mend; the command line exits with status 2."""


class ArtifactError(UserError):
    """Refuse a file, saying why; nothing in it was executed."""


class BlockError(UserError):
    """Say which value does not fit which block."""


class DataError(UserError):
    """Say why the data as a whole cannot be used."""


class FreezeError(UserError):
    """Refuse a freeze that would change nothing or names no group."""


class ItemError(UserError):
    """Name the item, the field and the step at which it failed."""


class OptionError(UserError):
    """Name the argument, what was given and what is valid."""


class PlanError(UserError):
    """Name the two sides that do not fit: a block and a transform, or two blocks."""


class PluginError(UserError):
    """Say which plugin is missing, blocked or broken, and the line that mends it."""


class UnknownName(UserError):  # noqa: N818 - says what it is
    """Name what was asked for and the nearest names that exist."""


class TrainingError(GraftworkError):
    """Say at which step training went wrong and what is kept."""


def unknown(kind: str, name: str, valid: Iterable[str], *, hint: str = "") -> UnknownName:
    """Build the error for a name that is not among `valid`, naming the nearest ones."""
    names = sorted(valid)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    # A short name is meant far more often than a full id: compare the last parts as well.
    short = name.rsplit("/", 1)[-1]
    near += [n for n in names if n not in near and get_close_matches(short, [n.rsplit("/", 1)[-1]], cutoff=0.6)]
    parts = [f"unknown {kind} {name!r}"]
    if near:
        parts.append("did you mean " + " or ".join(repr(n) for n in near[:3]) + "?")
    elif names:
        parts.append("valid: " + ", ".join(names[:12]) + (" …" if len(names) > 12 else ""))
    if hint:
        parts.append(hint)
    return UnknownName("; ".join(parts))
