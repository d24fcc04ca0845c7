"""Everything that is on its way out: what, since when, what to use instead, and the version that removes it.

Nothing is deprecated anywhere else. The code that still offers an argument or a behaviour calls `warn_deprecated`; a
name of `graftwork` or `graftwork.api` needs only its line here, and leaves `__all__`. docs/api-policy.md says how long
something stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

__all__ = ["DEPRECATIONS", "Deprecation", "GraftworkDeprecation", "moved", "warn_deprecated"]


class GraftworkDeprecation(FutureWarning):
    """Say that something will be gone in a named version. Python shows it without being asked, once a line."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Deprecation:
    """Describe one thing that will go.

    `use` says what to write instead. `moved_to`, `"package.module:attr"`, is where a public name is found meanwhile;
    it is empty for an argument, an option or a behaviour, whose code stays where it is.
    """

    since: str
    removed: str
    use: str
    moved_to: str = ""

    def __post_init__(self) -> None:
        if not _number(self.since) < _number(self.removed):
            raise ValueError(f"deprecated since {self.since}, removed in {self.removed}: the removal must come later")

    def message(self, what: str) -> str:
        """Write the warning."""
        return f"{what} is deprecated since {self.since} and will be removed in {self.removed}; use {self.use}"


DEPRECATIONS: Final[Mapping[str, Deprecation]] = MappingProxyType({})
"""By what is deprecated, in full: "graftwork.Name", "graftwork.Learner.fit(argument)"."""


def warn_deprecated(what: str, *, table: Mapping[str, Deprecation] = DEPRECATIONS, stacklevel: int = 2) -> None:
    """Warn of something in the table, at the line that called the caller."""
    warnings.warn(table[what].message(what), GraftworkDeprecation, stacklevel=stacklevel + 1)


def moved(module: str, name: str, *, table: Mapping[str, Deprecation] = DEPRECATIONS) -> str:
    """Return where a deprecated public name is found, `"package.module:attr"`, having warned; "" if it is none."""
    full = f"{module}.{name}"
    if full not in table or not table[full].moved_to:
        return ""
    warn_deprecated(full, table=table, stacklevel=4)  # moved, _lazy's two functions, and the user's line
    return table[full].moved_to


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
