"""Look through what a classifier confuses: a page whose matrix opens the pictures of a cell; and mend their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from graftwork.api import ClassificationInterpretation, DataError, ItemLoader, Loader, OptionError
from graftwork_vision.thumbnails import inlined, picture_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ConfusionBrowser", "ImageCleaner"]

_STYLE = """
.ROOT {font: 13px sans-serif} .ROOT input, .ROOT section {display: none}
.ROOT table {border-collapse: collapse} .ROOT td, .ROOT th {padding: 2px 6px; border: 1px solid #ccc; text-align: right}
.ROOT label {cursor: pointer; display: block}
.ROOT .right {color: #777} .ROOT .wrong {color: #b22222; font-weight: bold}
.ROOT figure {display: inline-block; margin: 4px; text-align: center} .ROOT figcaption {font-size: 11px}
"""


@final
class ConfusionBrowser:
    """Be a page with the confusion matrix: a click on a cell shows its pictures, the worst first.

    A notebook shows it when it is returned; `save` writes one file that needs nothing else, and runs no script.
    """

    def __init__(
        self,
        interpretation: ClassificationInterpretation,
        *,
        max_pictures: int = 12,
        side: int = 96,
        right: bool = False,
    ) -> None:
        """Show up to `max_pictures` of a cell, `side` pixels large, and with `right` those of the diagonal too."""
        if max_pictures < 1 or side < 8:
            raise OptionError(f"max_pictures={max_pictures} must be at least 1, and side={side} at least 8 pixels")
        self.interpretation, self.max_pictures, self.side, self.right = interpretation, max_pictures, side, right

    def cells(self) -> dict[tuple[int, int], list[int]]:
        """Return the rows of the predictions in each cell (actual, predicted), those of the largest loss first."""
        held = self.interpretation
        found: dict[tuple[int, int], list[int]] = {}
        for row in held.losses.argsort(descending=True, stable=True).tolist():
            found.setdefault((int(held.targets[row]), int(held.predicted[row])), []).append(row)
        return found

    def html(self) -> str:
        """Return the page's part that a notebook shows."""
        cells = self.cells()
        # Pages of one notebook share their names; the same page has the same ones each time.
        told = repr((self.interpretation.vocab, sorted(cells.items()), self.max_pictures, self.side, self.right))
        root = f"gw{blake2b(told.encode(), digest_size=6).hexdigest()}"
        shown = {cell: rows for cell, rows in cells.items() if self.right or cell[0] != cell[1]}
        names = {cell: f"{root}-{cell[0]}-{cell[1]}" for cell in shown}
        rules = "".join(f"#{name}:checked ~ .{name} {{display: block}}\n" for name in names.values())
        inputs = "".join(f'<input type="radio" name="{root}" id="{name}">' for name in names.values())
        sections = "".join(self._section(names[cell], cell, rows) for cell, rows in sorted(shown.items()))
        style = _STYLE.replace("ROOT", root)
        return f'<style>{style}{rules}</style><div class="{root}">{inputs}{self._matrix(cells, names)}{sections}</div>'

    def _matrix(self, cells: dict[tuple[int, int], list[int]], names: dict[tuple[int, int], str]) -> str:
        vocab = self.interpretation.vocab
        head = "".join(f"<th>{escape(name)}</th>" for name in vocab)
        lines = [f"<tr><th>actual \\ predicted</th>{head}</tr>"]
        for actual, name in enumerate(vocab):
            row = "".join(
                _cell(cells.get((actual, p), ()), names.get((actual, p)), actual == p) for p in range(len(vocab))
            )
            lines.append(f"<tr><th>{escape(name)}</th>{row}</tr>")
        return f"<table>{''.join(lines)}</table>"

    def _section(self, name: str, cell: tuple[int, int], rows: Sequence[int]) -> str:
        held, shown = self.interpretation, rows[: self.max_pictures]
        actual, predicted = (escape(held.vocab[number]) for number in cell)
        positions = [int(held.predictions.index[row]) for row in shown]
        pictures = "".join(
            self._figure(row, position, sample)
            for row, position, sample in zip(shown, positions, held.inputs(positions), strict=True)
        )
        more = f" (the {len(shown)} with the largest loss)" if len(shown) < len(rows) else ""
        return (
            f'<section class="{name}"><h4>{actual}, taken for {predicted}: {len(rows)}{more}</h4>{pictures}</section>'
        )

    def _figure(self, row: int, position: int, sample: dict[str, Any]) -> str:
        held = self.interpretation
        value, block = next(iter(sample.values()))
        title = escape(str(_file(held.loader, position) or held.loader.item(position)), quote=True)
        image = f'<img src="{inlined(picture_of(value, block), side=self.side)}" title="{title}" alt="{title}">'
        return f"<figure>{image}<figcaption>loss {float(held.losses[row]):.2f}</figcaption></figure>"

    def save(self, path: str | Path) -> Path:
        """Write the page as one file and return its path."""
        path = Path(path)
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Confusions</title>{self.html()}</html>\n'
        path.write_text(page, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        """Show in a notebook."""
        return self.html()


def _cell(rows: Sequence[int], name: str | None, right: bool) -> str:
    kind = "right" if right else "wrong"
    if not rows:
        return "<td></td>"
    inner = f'<label for="{name}">{len(rows)}</label>' if name is not None else str(len(rows))
    return f'<td class="{kind}">{inner}</td>'


def _file(loader: Loader, position: int) -> Path | None:
    """Return the file of a picture at one of the loader's positions, if it lies in one."""
    value = loader.item(position)
    if isinstance(loader, ItemLoader):
        value = loader.source.raw(position)[loader.plan.inputs[0]]
    return Path(value) if isinstance(value, str | Path) else None


@final
@dataclass(slots=True, eq=False)
class ImageCleaner:
    """List pictures by their loss, decide which to delete and which to give another label, and do it to the files.

    For pictures in a folder per class: another label means another folder. Nothing is touched before `apply`.
    """

    interpretation: ClassificationInterpretation
    _gone: set[Path] = field(default_factory=set, init=False, repr=False)
    _moved: dict[Path, str] = field(default_factory=dict, init=False, repr=False)

    def frame(self, k: int | None = None) -> pd.DataFrame:
        """Return the `k` pictures of the largest loss, by default all: path, actual, predicted, probability, loss."""
        import pandas as pd

        top = self.interpretation.top_losses(k)
        columns = ("actual", "predicted", "probability", "loss")
        loader = self.interpretation.loader
        rows = [{"path": _file(loader, t.index), "actual": t.actual, "predicted": t.predicted} for t in top]
        figures = [{"probability": t.probability, "loss": t.loss} for t in top]
        return pd.DataFrame([a | b for a, b in zip(rows, figures, strict=True)], columns=["path", *columns])

    def delete(self, paths: str | Path | Sequence[str | Path]) -> None:
        """Mark pictures to be deleted."""
        self._gone.update(self._known(paths))

    def relabel(self, paths: str | Path | Sequence[str | Path], label: str) -> None:
        """Mark pictures to get another label: the name of a class, known or new."""
        if not label or Path(label).name != label or label in (".", ".."):
            raise OptionError(f"label={label!r} is no name of a folder")
        self._moved.update(dict.fromkeys(self._known(paths), label))

    def apply(self) -> tuple[int, int]:
        """Delete and move the files that are marked; return how many of each.

        Raises DataError, before anything is changed, if a file is in the way or not there any more.
        """
        moves = {
            path: path.parent.parent / label / path.name
            for path, label in self._moved.items()
            if path not in self._gone
        }
        moves = {path: to for path, to in moves.items() if path != to}
        taken = [to for to in moves.values() if to.exists()] + sorted(
            p for p in self._gone | set(moves) if not p.is_file()
        )
        if taken or len(set(moves.values())) < len(moves):
            raise DataError(
                f"nothing was changed: {taken[0] if taken else 'a name'} is in the way, or is not there any more"
            )
        for path in self._gone:
            path.unlink()
        for path, to in moves.items():
            to.parent.mkdir(exist_ok=True)
            path.rename(to)
        counts = len(self._gone), len(moves)
        self._gone.clear()
        self._moved.clear()
        return counts

    def _known(self, paths: str | Path | Sequence[str | Path]) -> list[Path]:
        """Refuse files that are not among those interpreted."""
        wanted = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
        loader = self.interpretation.loader
        known = {_file(loader, position) for position in self.interpretation.predictions.index.tolist()}
        for path in wanted:
            if path not in known:
                raise OptionError(f"{path} is not among the {len(known)} pictures that were interpreted")
        return wanted
