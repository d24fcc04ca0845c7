"""What blocks and transforms have in common: a name in the registry, and JSON made of dataclass fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np

from graftwork.errors import OptionError, unknown

__all__ = ["Configurable"]


class Configurable:
    """Go to and from JSON by dataclass fields; `id` is the name in the registry."""

    id: ClassVar[str]

    def to_config(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {f.name: _to_json(getattr(self, f.name), owner=self.id, name=f.name) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from `to_config`'s mapping; raise UnknownName for a field this class does not have."""
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        for key in config:
            if key not in names:
                raise unknown(f"field of {cls.id}", key, names)
        return cls(**{key: _to_tuple(value) for key, value in config.items()})


def _to_json(value: Any, *, owner: str, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_to_json(v, owner=owner, name=name) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _to_json(v, owner=owner, name=name) for k, v in value.items()}
    raise OptionError(
        f"{owner}: field {name!r} holds a {type(value).__name__}, which has no JSON form; "
        "use numbers, strings and tuples of them, and register code as a component of its own"
    )


def _to_tuple(value: Any) -> Any:
    return tuple(_to_tuple(v) for v in value) if isinstance(value, list) else value
