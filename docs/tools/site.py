"""What MkDocs does not know by itself: pages made from READMEs, notebooks and public names, and links between them.

A README links to files of the repository. On the site a link to a page leads to that page; one to a file that is no
page is left as plain text; one to nothing is a warning, which `make docs` takes for an error.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LOG = logging.getLogger("mkdocs.hooks.site")
COPIED = {
    "core/README.md": "packages/core.md",
    "vision_plugin/README.md": "packages/vision.md",
    "tabular_plugin/README.md": "packages/tabular.md",
    "collab_plugin/README.md": "packages/collab.md",
    "text_plugin/README.md": "packages/text.md",
    "plugins/segmentation/README.md": "packages/segmentation.md",
    "plugins/example/README.md": "packages/signals.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
"""Pages that are files elsewhere in the repository."""
ALIASES = {"README.md": "index.md", "plugins/example": "packages/signals.md"}
"""What else a link may say for a page."""
PACKAGES = (
    "graftwork",
    "graftwork.api",
    "graftwork.testing",
    "graftwork.notebook",
    "graftwork_vision",
    "graftwork_tabular",
    "graftwork_collab",
    "graftwork_text",
    "graftwork_segmentation",
    "graftwork_signals",
)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ is."""
    for uri, text in made_pages():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site."""
    uri = page.file.src_uri
    source = {made: path for path, made in COPIED.items()}.get(uri, f"docs/{uri}")
    return LINK.sub(lambda link: rewritten(link, source=source, uri=uri), markdown)


def made_pages() -> Iterator[tuple[str, str]]:
    for path, uri in COPIED.items():
        yield uri, (ROOT / path).read_text(encoding="utf-8")
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        yield f"notebooks/{notebook.stem}.md", notebook_page(notebook)
    for package in PACKAGES:
        yield f"reference/{package.replace('.', '-')}.md", reference_page(package)


# --- links ------------------------------------------------------------------------------------------------------------


def rewritten(link: re.Match[str], *, source: str, uri: str) -> str:
    """Return a link of the file `source` as the page `uri` must write it."""
    target, _, anchor = link["target"].partition("#")
    if not target or ":" in target or Path(target).suffix in (".ipynb", ".html"):
        return link[0]
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    page = (COPIED | ALIASES).get(found) or (found.removeprefix("docs/") if found.startswith("docs/") else None)
    if page is not None:
        relative = posixpath.relpath(page, posixpath.dirname(uri) or ".")
        return f"[{link['text']}]({relative}{'#' * bool(anchor)}{anchor})"
    if not (ROOT / found).exists():
        LOG.warning("%s links to %s, and there is no %s", source, target, found)
    return link["text"]


# --- the reference ----------------------------------------------------------------------------------------------------


def reference_page(package: str) -> str:
    """List a package's public names by the modules they live in; `graftwork.api` links to what `graftwork` explains."""
    module = importlib.import_module(package)
    explained = set(importlib.import_module("graftwork").__all__) if package == "graftwork.api" else set()
    lines = [f"# {package}", "", inspect.getdoc(module) or "", ""]
    if explained:
        both = sorted(explained & set(module.__all__))
        lines += ["Also in `graftwork`: " + ", ".join(f"[{name}][graftwork.{name}]" for name in both) + ".", ""]
    for home, names in by_home(module, explained).items():
        lines += [f"## {home}", ""] if home else []
        for name in names:
            lines += [f"::: {package}.{name}", ""]
    return "\n".join(lines)


def by_home(module: ModuleType, left_out: set[str]) -> dict[str, list[str]]:
    """Group a module's public names by the module each is defined in."""
    homes: dict[str, list[str]] = {}
    for name in sorted(module.__all__, key=str.lower):
        if name not in left_out and not name.startswith("__"):
            homes.setdefault(home_of(getattr(module, name), module), []).append(name)
    return dict(sorted(homes.items()))


def home_of(value: Any, module: ModuleType) -> str:
    found = inspect.getmodule(inspect.unwrap(value)) if callable(value) else None
    top = module.__name__.partition(".")[0]
    return "Values" if found is None or found.__name__.partition(".")[0] != top else found.__name__


# --- notebooks --------------------------------------------------------------------------------------------------------


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its text, its code, and what the code showed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [part for cell in cells for part in cell_parts(cell)]
    note = f"[The notebook itself]({path.name}); it is run by the tests."
    return "\n\n".join([lines[0], note, *lines[1:]]) + "\n"


def cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield shown(output)


def shown(output: dict[str, Any]) -> str:
    """Return the richest form of an output."""
    if output["output_type"] == "stream":
        return fenced("".join(output["text"]))
    data = output["data"]
    if "image/png" in data:
        return f'<img alt="" style="max-width: 100%" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        return f"<div>\n{''.join(data['text/html'])}\n</div>"
    return fenced("".join(data["text/plain"]))


def fenced(text: str) -> str:
    return f"````text\n{text.rstrip()}\n````"
