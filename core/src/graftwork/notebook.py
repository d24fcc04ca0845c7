"""Conveniences for notebooks: `ls`, `doc`, and, as the one thing in graftwork that changes another library, `Path.ls`.

Nothing imports this module but you: `from graftwork.notebook import doc, ls`. Importing it adds the method `ls` to
pathlib's `Path`, as fastai's users know it; `import graftwork` alone never does. Blocks, plans, batches and learners
show themselves in a notebook without it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
from html import escape
from pathlib import Path
from typing import Any, Final, final

from graftwork.errors import DataError, unknown
from graftwork.page import Page

__all__ = ["Doc", "Listing", "doc", "ls"]

SHOWN: Final = 20
"""Entries that a listing prints."""
SITE: Final = "GRAFTWORK_DOCS"
"""The environment variable that says where the documentation can be read."""

OWN_PAGES: Final = ("graftwork.notebook", "graftwork.testing")
"""Modules whose names have a page of their own."""


@final
class Listing(list[Path]):
    """Be a list of paths whose repr begins with their number and ends before it is too long."""

    def __repr__(self) -> str:
        """Return the number, and the first of them."""
        more = ", …" * (len(self) > SHOWN)
        return f"({len(self):,}) [{', '.join(map(str, self[:SHOWN]))}{more}]"


def ls(path: str | Path = ".", *, pattern: str = "*") -> Listing:
    """List what is in a folder, sorted by name; hidden files are left out.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{str(folder)!r} {what}, and ls lists folders; its parent is {str(folder.parent)!r}")
    return Listing(sorted(entry for entry in folder.glob(pattern) if not entry.name.startswith(".")))


Path.ls = ls  # type: ignore[attr-defined]


@final
class Doc:
    """Say what something is: how it is called, what it is for, where it comes from, where to read on."""

    def __init__(self, *, name: str, signature: str, text: str, origin: str, link: str) -> None:
        """Hold what `doc` found."""
        self.name, self.signature, self.text, self.origin, self.link = name, signature, text, origin, link

    def __repr__(self) -> str:
        """Return it as text."""
        return "\n".join(filter(None, [f"{self.name}{self.signature}", "", self.text, "", self.origin, self.link]))

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        href = self.link.startswith(("http://", "https://", "file://"))
        link = f'<a href="{escape(self.link)}">{escape(self.link)}</a>' if href else escape(self.link)
        return (
            f"<pre><strong>{escape(self.name)}</strong>{escape(self.signature)}</pre>\n"
            f'<p style="white-space: pre-wrap">{escape(self.text)}</p>\n'
            f"<p><small>{escape(self.origin)}<br>{link}</small></p>"
        )


def doc(thing: Any) -> Doc:
    """Return what is known of a class, a function, a module, an object of one of graftwork's classes, or a registry id.

    The first paragraph of the docstring, or a component's summary, is shown; the link leads to the rest. It begins with
    the environment variable GRAFTWORK_DOCS: an address, or the folder that `make docs` has built.

    Raises:
        UnknownName: no component has that id.
    """
    if isinstance(thing, str):
        return _doc_of_component(thing)
    return _doc_of(_described(thing))


def _described(thing: Any) -> Any:
    """Return the class of an object; what has a docstring of its own is itself."""
    thing = inspect.unwrap(thing)
    own = inspect.isroutine(thing) or isinstance(thing, type) or inspect.ismodule(thing)
    return thing if own else type(thing)


def _doc_of(thing: Any, *, name: str = "", summary: str = "", note: str = "", link: str = "") -> Doc:
    module = inspect.getmodule(thing)
    home = "" if module is None else module.__name__
    qualified = home if inspect.ismodule(thing) else f"{home}.{thing.__qualname__}"
    return Doc(
        name=name or qualified.rpartition(".")[2],
        signature="" if inspect.ismodule(thing) else _signature(thing),
        text=summary or (inspect.getdoc(thing) or "It has no docstring.").split("\n\n")[0],
        origin=" · ".join(filter(None, [qualified, _distribution(home), note])),
        link=link or _link(thing, home),
    )


def _doc_of_component(name: str) -> Doc:
    """Describe what a registry id, or the unambiguous end of one, stands for."""
    from graftwork.plugins import get_host

    registries = get_host().registries
    found = [(reg, spec) for reg in registries.values() for spec in reg.find() if name in (spec.id, _short(spec.id))]
    own = [(reg, spec) for reg, spec in found if spec.id == name]
    if not found:
        known = {spec.id for reg in registries.values() for spec in reg.find()}
        raise unknown("component", name, known, hint="see `graft plugins show NAME`")
    if len(found) > 1 and not own:
        raise unknown("component", name, {spec.id for _, spec in found}, hint="several end so; write the full id")
    registry, spec = (own or found)[0]
    links = [link.url_or_path for link in get_host().docs.find() if spec.id in link.about]
    thing = _described(registry.get(spec.id))
    note = f"{spec.kind} of plugin {registry.owner(spec.id)!r}"
    return _doc_of(thing, name=spec.id, summary=spec.summary, note=note, link="".join(links[:1]))


def _short(full: str) -> str:
    return full.rpartition("/")[2]


def _signature(thing: Any) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # some of C's have none
        return "(…)"
    named = [p.replace(annotation=_unquoted(p.annotation)) for p in signature.parameters.values()]
    returned = inspect.Signature.empty if isinstance(thing, type) else _unquoted(signature.return_annotation)
    return str(signature.replace(parameters=named, return_annotation=returned))


def _unquoted(annotation: Any) -> Any:
    """Return an annotation that is a string as one whose repr is itself."""
    return Page(annotation) if isinstance(annotation, str) else annotation


def _distribution(module: str) -> str:
    """Return the distribution a module belongs to, with its version."""
    package = module.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(package, [])
    return f"{names[0]} {importlib.metadata.version(names[0])}" if names else ""


def _link(thing: Any, module: str) -> str:
    """Return where the site explains a public name; nothing for what is not public."""
    top, first_two = module.partition(".")[0], ".".join(module.split(".")[:2])
    if not top or inspect.ismodule(thing):
        return ""
    own = (first_two,) if first_two in OWN_PAGES else ()
    for package in (top, "graftwork.api", *own) if top == "graftwork" else (top,):
        offered = importlib.import_module(package)
        if thing.__qualname__ not in vars(offered).get("__all__", ()):
            continue
        if inspect.unwrap(getattr(offered, thing.__qualname__)) is thing:
            return _address(f"reference/{package.replace('.', '-')}/", f"{package}.{thing.__qualname__}")
    return ""


def _address(page: str, anchor: str) -> str:
    """Return where a page of the site is, as far as that is known."""
    site = os.environ.get(SITE, "").rstrip("/")
    if not site:
        return f"in the documentation: {page}#{anchor}"
    if Path(site).is_dir():
        return f"{Path(site).resolve().as_uri()}/{page}index.html#{anchor}"
    return f"{site}/{page}#{anchor}"
