"""HTML that notebooks show: small tables and drawings, everything escaped, no script and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from itertools import zip_longest
from typing import Final

__all__ = ["Lane", "Station", "cut", "drawing", "lanes_of", "parts", "table"]

WIDTH: Final = 238
"""Of a box, in pixels."""
GAP: Final = 26
BOX: Final = 42
ARROW: Final = 30
TOP: Final = 30
LETTERS: Final = 33
"""Of the small type that fit into a box."""
CELL: Final = 160


def cut(text: str, limit: int = CELL) -> str:
    """Return a text of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def parts(value: object) -> tuple[str, str]:
    """Return a component's name and what its repr has in brackets, less the fields that have their defaults."""
    text, name = repr(value), type(value).__name__
    inside = text[len(name) + 1 : -1] if text.startswith(f"{name}(") else text
    given = {f.name: (f, getattr(value, f.name)) for f in fields(value) if f.repr} if is_dataclass(value) else {}
    if inside != ", ".join(f"{key}={held!r}" for key, (_, held) in given.items()):
        return name, inside
    return name, ", ".join(f"{key}={held!r}" for key, (f, held) in given.items() if held != f.default)


def table(rows: Sequence[Sequence[object]], *, title: str = "", head: Sequence[str] = ()) -> str:
    """Return a small table, cells as text; long ones are cut."""
    lines = [f"<strong>{escape(title)}</strong>"] if title else []
    lines.append('<table style="text-align: left">')
    if head:
        lines.append("<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{escape(cut(str(cell)))}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Be a box of a drawing: a name, small type under it, and what stands at the arrow that leads to it."""

    name: str
    detail: str = ""
    arrow: str = ""
    collated: bool = False
    """Whether it holds whole batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Be one field's way through a drawing, from top to bottom."""

    title: str
    items: tuple[Station, ...]
    batches: tuple[Station, ...]


def lanes_of(lanes: Sequence[Lane]) -> list[list[Station | None]]:
    """Return the lanes as columns of one height, whose batches begin on one line."""
    rows = [*zip_longest(*(lane.items for lane in lanes)), *zip_longest(*(lane.batches for lane in lanes))]
    return [list(column) for column in zip(*rows, strict=True)]


def drawing(lanes: Sequence[Lane], *, title: str) -> str:
    """Draw the lanes side by side, as one SVG element that needs no style from around it."""
    columns = lanes_of(lanes)
    width = len(lanes) * (WIDTH + GAP) - GAP + 2
    height = TOP + max(len(column) for column in columns) * (BOX + ARROW) - ARROW + 2
    lefts = range(1, width, WIDTH + GAP)
    marks = [_lane(lane.title, column, x) for lane, column, x in zip(lanes, columns, lefts, strict=True)]
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = "max-width: 100%; height: auto; font-family: sans-serif"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} style="{style}">'
    return "\n".join([head, f"<title>{escape(title)}</title>", *marks, "</svg>"])


def _lane(title: str, column: Sequence[Station | None], left: int) -> str:
    middle = left + WIDTH // 2
    lines = [_text(middle, TOP - 11, title, size=13, fill="#7a7a7a", weight="bold")]
    below = TOP
    for row, station in enumerate(column):
        if station is None:
            continue
        top = TOP + row * (BOX + ARROW)
        if row:
            lines.append(_arrow(middle, below, top, station.arrow))
        lines.append(_box(left, top, station))
        below = top + BOX
    return "\n".join(lines)


def _box(left: int, top: int, station: Station) -> str:
    fill, stroke = ("#e3f0e4", "#5a8f5e") if station.collated else ("#e4ecf7", "#5b7fb0")
    middle, name = left + WIDTH // 2, top + (18 if station.detail else 26)
    shape = f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{BOX}" rx="6" fill="{fill}" stroke="{stroke}"/>'
    detail = _text(middle, top + 34, station.detail, size=11, fill="#444") if station.detail else ""
    return "\n".join(filter(None, [shape, _text(middle, name, station.name, size=13, fill="#111"), detail]))


def _arrow(x: int, top: int, bottom: int, label: str) -> str:
    head = f"M{x - 4} {bottom - 7} L{x} {bottom} L{x + 4} {bottom - 7}"
    line = f'<path d="M{x} {top} V{bottom} {head}" fill="none" stroke="#7a7a7a"/>'
    beside = _text(x + 9, bottom - 11, label, size=11, fill="#7a7a7a", anchor="start", limit=20) if label else ""
    return "\n".join(filter(None, [line, beside]))


def _text(
    x: int,
    y: int,
    text: str,
    *,
    size: int,
    fill: str,
    weight: str = "normal",
    anchor: str = "middle",
    limit: int = LETTERS,
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(cut(text, limit))}</text>'
    )
