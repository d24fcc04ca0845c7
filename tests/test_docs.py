"""The documentation site: it builds without a warning, asks no other host, and says what the code says."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import graftwork
import graftwork.api
from graftwork.notebook import doc
from graftwork.plugins import hookspecs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EVENTS_IN_CODE = re.compile(r"^\| `([a-z_]+)` \|", re.MULTILINE)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Links(HTMLParser):
    """Gather what a page loads, what it links to, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found["id"]} if found.get("id") else set()
        if tag == "a" and found.get("href"):
            self.linked.append(found["href"])
        if tag in ("script", "img", "link", "iframe"):
            self.loaded += [found[name] for name in ("src", "href") if found.get(name)]


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        elsewhere = [url for url in Links(page).loaded if url.startswith(("http:", "https:", "//"))]
        assert not elsewhere, f"{page.relative_to(site)}: {elsewhere}"


@pytest.mark.slow
def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    for page, links in pages.items():
        for link in links.linked:
            target, _, anchor = link.partition("#")
            if ":" in target or target.startswith("/"):
                continue
            found = (page.parent / target).resolve() if target else page
            found = found / "index.html" if found.is_dir() else found
            assert found.exists(), f"{page}: {link}"
            assert not anchor or found not in pages or anchor in pages[found].anchors, f"{page}: {link}"


@pytest.mark.slow
def test_doc_links_to_where_the_site_explains_a_name(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTWORK_DOCS", str(site))
    for thing in (graftwork.Learner, graftwork.load_learner, graftwork.accuracy, graftwork.api.Engine, doc):
        address = urlsplit(doc(thing).link)
        assert address.fragment in Links(Path(address.path)).anchors


@pytest.mark.slow
@pytest.mark.parametrize(
    "package",
    [
        "graftwork",
        "graftwork_vision",
        "graftwork_tabular",
        "graftwork_collab",
        "graftwork_text",
        "graftwork_segmentation",
    ],
)
def test_the_reference_has_every_public_name(package: str, site: Path) -> None:
    anchors = Links(site / "reference" / package / "index.html").anchors
    names = {f"{package}.{name}" for name in importlib.import_module(package).__all__ if not name.startswith("__")}
    assert names <= anchors


def hooks() -> dict[str, str]:
    """Return the hooks' signatures as one writes them."""
    found = {name: value for name, value in vars(hookspecs).items() if name.startswith("graftwork_")}
    return {name: re.sub(r"(?<=: |> )'([^']*)'", r"\1", str(inspect.signature(hook))) for name, hook in found.items()}


def test_every_hook_is_documented_with_its_signature() -> None:
    text = (DOCS / "hooks.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^### (\w+)\n`(.+)`$", text, re.MULTILINE))
    assert documented == hooks()


def test_every_event_is_documented() -> None:
    from graftwork.events import EVENTS

    text = (DOCS / "training.md").read_text(encoding="utf-8")
    table = text.partition("| event | when |")[2].partition("\n\n")[0]
    assert tuple(EVENTS_IN_CODE.findall(table)) == EVENTS


def test_every_callback_of_the_core_is_documented() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    for spec in graftwork.get_host().callbacks.find():
        if spec.id.startswith("core/"):
            assert f"`{spec.target.partition(':')[2]}`" in text, f"docs/training.md does not say what {spec.id} does"


def test_names_in_the_page_for_fastai_users_are_public() -> None:
    """Code in the second column of its tables is a name of ours, or a call of one."""
    import graftwork_collab
    import graftwork_segmentation
    import graftwork_tabular
    import graftwork_text
    import graftwork_vision

    plugins = (graftwork_vision, graftwork_tabular, graftwork_collab, graftwork_text, graftwork_segmentation)
    packages = (graftwork, *plugins)
    public = {name for package in packages for name in package.__all__} | set(vars(graftwork.Learner))
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|", (DOCS / "from-fastai.md").read_text(encoding="utf-8"), re.MULTILINE)
    said = {name for row in rows for code in re.findall(r"`([^`]+)`", row) for name in re.findall(r"\b[A-Z]\w+", code)}
    unknown = said - public - {"Path"}
    assert not unknown


def test_the_pictures_are_those_the_script_draws() -> None:
    drawn = runpy.run_path(str(DOCS / "tools" / "pictures.py"))["pictures"]()
    kept = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "pictures").glob("*.svg")}
    assert drawn == kept, "run docs/tools/pictures.py"


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_small_and_has_been_run(path: Path) -> None:
    assert path.stat().st_size < 200_000
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) > len(code) / 2
    assert all("0x7f" not in json.dumps(cell["outputs"]) for cell in code)


def test_notebooks_show_what_cells_return() -> None:
    tools = runpy.run_path(str(DOCS / "tools" / "notebooks.py"))

    def cell(code: str) -> dict:
        return {"cell_type": "code", "source": [code], "outputs": [], "metadata": {}}

    import __main__

    try:
        done = tools["run"]({"cells": [cell("x = 2\nprint('printed')"), cell("x + 1"), cell("x = 3")]})
    finally:
        sys.modules["__main__"] = __main__
    assert tools["kinds"](done) == [[["stream"]], [["text/plain"]], []]
    assert done["cells"][1]["outputs"][0]["data"]["text/plain"] == ["3"]


@pytest.mark.parametrize(
    ("source", "uri", "target", "expected"),
    [
        ("docs/writing-a-plugin.md", "writing-a-plugin.md", "../plugins/example", "(packages/signals.md)"),
        ("vision_plugin/README.md", "packages/vision.md", "../core/README.md", "(core.md)"),
        ("CONTRIBUTING.md", "contributing.md", "docs/architecture.md#floors", "(architecture.md#floors)"),
        ("docs/index.md", "index.md", "../Makefile", None),
        ("docs/index.md", "index.md", "https://example.org", "(https://example.org)"),
    ],
)
def test_links_between_files_become_links_between_pages(
    source: str, uri: str, target: str, expected: str | None
) -> None:
    tools = runpy.run_path(str(DOCS / "tools" / "site.py"))
    link = tools["LINK"].search(f"see [there]({target}).")
    assert tools["rewritten"](link, source=source, uri=uri) == (f"[there]{expected}" if expected else "there")
