"""What is installed, as a table: every component of a kind with its blocks, its cost and its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from graftwork.errors import OptionError, unknown
from graftwork.page import columns
from graftwork.plugins.host import Host, get_host
from graftwork.plugins.registry import namespace_of
from graftwork.spec import Spec, several

__all__ = ["FILTERS", "KINDS", "Catalog", "CatalogEntry", "installed"]

_SOME: Final = 6
"""How many names a cell shows before it counts the rest."""


class _Sides(NamedTuple):
    """Name the fields of a record that hold the blocks it takes and the blocks it gives."""

    takes: str = ""
    gives: str = ""


_SIDES: Final[Mapping[str, _Sides]] = MappingProxyType(
    {
        "baselines": _Sides("inputs", "blocks"),
        "blocks": _Sides(),
        "callbacks": _Sides(),
        "datasets": _Sides("fields", "fields"),
        "exporters": _Sides(),
        "losses": _Sides("", "blocks"),
        "metrics": _Sides("", "blocks"),
        "models": _Sides("inputs", "output"),
        "sources": _Sides("gives", "gives"),
        "tasks": _Sides("inputs", "targets"),
        "transforms": _Sides("accepts", ""),
    }
)
KINDS: Final = tuple(_SIDES)
FILTERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        kind: tuple(name for name, field in (("input", sides.takes), ("target", sides.gives)) if field)
        for kind, sides in _SIDES.items()
    }
)
"""By which blocks each kind can be searched."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """Join a record to the distribution that brings it; `becomes` is what transforms make of a block."""

    spec: Spec
    plugin: str
    distribution: str
    version: str
    becomes: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """Name the distribution and its version, or a plugin that is no distribution."""
        return f"{self.distribution} {self.version}".strip() or self.plugin

    def to_json(self) -> dict[str, Any]:
        """Return all that the record says, but for where the component lies, and whose it is."""
        said = {f.name: getattr(self.spec, f.name) for f in fields(self.spec) if f.name != "target"}
        said = {name: dict(value) if isinstance(value, Mapping) else value for name, value in said.items()}
        owner = {"plugin": self.plugin, "distribution": self.distribution, "version": self.version}
        return {**said, **({"becomes": self.becomes} if self.becomes else {}), "owner": owner}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog(Sequence[CatalogEntry]):
    """Hold what a search found, sorted by id; shown, it is a table.

    A column that no entry has anything to say in is left out.
    """

    kind: str
    entries: tuple[CatalogEntry, ...]

    @property
    def ids(self) -> list[str]:
        """Return the full ids."""
        return [entry.spec.id for entry in self.entries]

    def __getitem__(self, place: Any) -> Any:
        """Return one entry, or several of them."""
        return self.entries[place]

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.entries)

    def __repr__(self) -> str:
        """Return the table."""
        return self.table() if self.entries else f"no {self.kind}"

    def table(self) -> str:
        """Lay the entries out in columns."""
        shown = [(name, [cell(entry) for entry in self.entries]) for name, cell in _columns(self.kind)]
        kept = [(name, cells) for name, cells in shown if any(cells)]
        return columns([name for name, _ in kept], zip(*(cells for _, cells in kept), strict=True))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the entries as JSON values."""
        return [entry.to_json() for entry in self.entries]


def installed(
    kind: str,
    *words: str,
    input: str | Sequence[str] = (),  # noqa: A002 - as the command line has it
    target: str | Sequence[str] = (),
    host: Host | None = None,
) -> Catalog:
    """List the installed components of a kind ("models", "metrics" …), importing none of them.

    `input` and `target` are blocks, by id or short name. One fits what works on that block or on anything transforms
    make of it: a model of tensors is found by `input="image"`. Of several blocks each must fit. All `words` must occur
    in the id or the summary.

    Raises:
        UnknownName: no such kind or block, or a short name that several plugins use.
        OptionError: the kind has no such blocks.
    """
    host = host or get_host()
    if kind not in _SIDES:
        raise unknown("kind of component", kind, KINDS)
    asked = {"input": _listed(input), "target": _listed(target)}
    wanted = [(getattr(_SIDES[kind], side), reach) for side, reach in _reaches(host, kind, asked)]
    found = [
        _entry(host, kind, spec)
        for spec in host.registries[kind].find()
        if all(_fits(spec, field, reach) for field, reach in wanted) and _mentions(spec, words)
    ]
    return Catalog(kind=kind, entries=tuple(found))


def _listed(blocks: str | Sequence[str]) -> tuple[str, ...]:
    return (blocks,) if isinstance(blocks, str) else tuple(blocks)


def _reaches(host: Host, kind: str, asked: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield, for every block that is asked for, the side it must fit and all that it may have become there."""
    for option, names in asked.items():
        if names and option not in FILTERS[kind]:
            by = " or ".join(FILTERS[kind]) or "words alone"
            raise OptionError(f"{kind} cannot be searched by {option}={names[0]!r}; search them by {by}")
        side = "takes" if option == "input" else "gives"
        yield from ((side, frozenset(_becomes(host, host.blocks.resolve(name)))) for name in names)


def _becomes(host: Host, block: str) -> tuple[str, ...]:
    """Return a block and all that transforms can make of it, step by step."""
    ways = [(spec.accepts, several(spec.gives)) for spec in host.transforms.find()]
    order = [block]
    for here in order:  # which grows meanwhile
        for accepts, gives in ways:
            order += [there for there in gives if here in accepts and there not in order]
    return tuple(order)


def _fits(spec: Spec, field: str, reach: frozenset[str]) -> bool:
    """Say whether a record has one of these blocks; what names no inputs looks at the target alone, and fits all."""
    blocks = _blocks(spec, field)
    return not blocks or not reach.isdisjoint(blocks)


def _blocks(spec: Spec, field: str) -> tuple[str, ...]:
    value = _value(spec, field) if field else ()
    return tuple(value.values()) if isinstance(value, Mapping) else several(value)


def _value(spec: Spec, field: str) -> Any:
    """Return a field that only some kinds of records have."""
    return getattr(spec, field)


def _mentions(spec: Spec, words: Sequence[str]) -> bool:
    text = f"{spec.id} {spec.summary}".lower()
    return all(word.lower() in text for word in words)


def _entry(host: Host, kind: str, spec: Spec) -> CatalogEntry:
    name = namespace_of(spec.id)
    info = next(info for info in host.plugin(name) if info.state == "ok")
    becomes = _becomes(host, spec.id)[1:] if kind == "blocks" else ()
    return CatalogEntry(spec=spec, plugin=name, distribution=info.dist, version=info.version, becomes=becomes)


# --- the columns of the tables ----------------------------------------------------------------------------------------

Cell = Callable[[CatalogEntry], str]
_SINGULAR: Final[Mapping[str, str]] = MappingProxyType({"losses": "loss"})


def _columns(kind: str) -> list[tuple[str, Cell]]:
    """Return the columns of a kind: what is its own between the id and the owner."""
    return [
        (_SINGULAR.get(kind, kind.removesuffix("s")).upper(), lambda entry: entry.spec.id),
        *_OWN.get(kind, ()),
        ("OWNER", lambda entry: entry.owner),
        ("SUMMARY", _summary),
    ]


def _summary(entry: CatalogEntry) -> str:
    note = f" (deprecated: {entry.spec.deprecated})" if entry.spec.deprecated else ""
    return entry.spec.summary + note


def _of(field: str, *, join: str = ", ") -> Cell:
    """Make a cell of the blocks, or other names, in a field."""

    def cell(entry: CatalogEntry) -> str:
        names = _blocks(entry.spec, field)
        more = f"{join}{len(names) - _SOME} more" if len(names) > _SOME else ""
        return join.join(names[:_SOME]) + more

    return cell


def _flag(field: str, yes: str, no: str = "") -> Cell:
    return lambda entry: yes if _value(entry.spec, field) else no


def _default_model(entry: CatalogEntry) -> str:
    return ", ".join(several(_value(entry.spec, "defaults").get("model", ())))


def _parameters(entry: CatalogEntry) -> str:
    """Say what a model costs, as far as its record does."""
    millions = _value(entry.spec, "params_m")
    known = f"{millions:g} M" if millions is not None else ""
    return ", ".join(part for part in (known, _value(entry.spec, "cost")) if part)


_OWN: Final[Mapping[str, tuple[tuple[str, Cell], ...]]] = MappingProxyType(
    {
        "baselines": (("FROM", _of("inputs", join=" + ")), ("TO", _of("blocks"))),
        "blocks": (("BECOMES", lambda entry: ", ".join(entry.becomes)),),
        "datasets": (
            ("FIELDS", _of("fields")),
            ("MB", lambda entry: f"{_value(entry.spec, 'size_mb'):g}"),
            ("LICENCE", _of("licence")),
        ),
        "exporters": (("FORMAT", _of("format")), ("SUFFIX", _of("suffix"))),
        "losses": (("FOR", _of("blocks")), ("DEFAULT", _flag("default", "default"))),
        "metrics": (
            ("FOR", _of("blocks")),
            ("BETTER", _flag("higher_is_better", "higher", "lower")),
            ("DEFAULT", _flag("default", "default")),
        ),
        "models": (
            ("FROM", _of("inputs", join=" + ")),
            ("TO", _of("output")),
            ("PARAMETERS", _parameters),
            ("WEIGHTS", _of("pretrained")),
        ),
        "sources": (("READS", _of("patterns")), ("GIVES", _of("gives", join=" + "))),
        "tasks": (("FROM", _of("inputs", join=" + ")), ("TO", _of("targets", join=" + ")), ("MODELS", _default_model)),
        "transforms": (
            ("FROM", _of("accepts")),
            ("TO", _of("gives")),
            ("STAGE", _of("stage")),
            ("RANDOM", _flag("random", "random")),
            ("INVERSE", _flag("invertible", "exact")),
        ),
    }
)
