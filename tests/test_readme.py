"""The Python and shell blocks of the READMEs and of the documentation run as they stand, in a page's order."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
RUNNER = ROOT / "tests" / "pages.py"
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (
        *ROOT.glob("*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "plugins" / "example" / "README.md",
    )
)
NOTEBOOKS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/notebooks/*.ipynb"))
LANGUAGES = {"python", "sh", "text", "toml", "yaml", "json"}
MOST_MARKED = 20
MAKE_WEIGHTS = """
import torch
from pathlib import Path
from torchvision.models import resnet18
torch.manual_seed(0)
folder = Path(torch.hub.get_dir()) / "checkpoints"
folder.mkdir(parents=True)
torch.save(resnet18().state_dict(), folder / "resnet18-f37072fd.pth")
"""
pages = runpy.run_path(str(RUNNER))


def blocks(page: str) -> list:
    return pages["fences"]((ROOT / page).read_text(encoding="utf-8"))


def runs(page: str) -> bool:
    return any(block.language in pages["RUN"] and not block.why_not for block in blocks(page))


def surroundings(torch_home: Path) -> dict[str, str]:
    return {"TORCH_HOME": str(torch_home), "OMP_NUM_THREADS": "1"}


def python(folder: Path, torch_home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | surroundings(torch_home)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def people(path: Path, rng: np.random.Generator) -> None:
    lines = ["job,age,height,joined,paid"]
    for i in range(300):
        job, age = ("baker", "clerk", "driver")[i % 3], int(rng.integers(18, 80))
        height = "" if i % 11 == 0 else f"{rng.normal(170, 10):.1f}"
        lines.append(
            f"{job},{age},{height},20{10 + i % 12}-0{1 + i % 9}-15,{'yes' if age > 45 or i % 3 == 0 else 'no'}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def films(folder: Path, rng: np.random.Generator) -> None:
    """Write ratings as MovieLens' ml-latest-small has them, of 60 users and 40 films, one of them Heat (1995)."""
    folder.mkdir()
    titles = ["Heat (1995)", *(f"Film {i} ({1960 + i})" for i in range(2, 41))]
    genres = ("Crime|Thriller", "Comedy", "Drama|Romance")
    movies = [f"{i},{title},{genres[i % 3]}" for i, title in enumerate(titles, 1)]
    lines = []
    for user in range(1, 61):
        for movie in rng.permutation(40)[:20] + 1:
            liked = (user + movie) % 3 == 0
            rating = np.clip(round(2 * rng.normal(4.2 if liked else 2.8, 0.5)) / 2, 0.5, 5)
            lines.append(f"{user},{movie},{rating},{1_000_000_000 + int(rng.integers(10**7))}")
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n", encoding="utf-8")
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n", encoding="utf-8")


def waves(path: Path, rng: np.random.Generator) -> None:
    lines = ["label," + ",".join(f"t{i}" for i in range(40))]
    for i in range(60):
        wave = np.sin(np.linspace(0, (6, 15)[i % 2], 40) + rng.uniform(0, 6)) + rng.normal(0, 0.1, 40)
        lines.append(("slow", "fast")[i % 2] + "," + ",".join(f"{value:.3f}" for value in wave))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def photos(folder: Path, rng: np.random.Generator, count: int) -> None:
    for name, colour in {"cat": (200, 120, 60), "dog": (60, 120, 200)}.items():
        (folder / name).mkdir(parents=True)
        for i in range(1, count + 1):
            pixels = np.array(colour) + rng.integers(-40, 40, (140, 150, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.jpg")


def reviews(folder: Path, rng: np.random.Generator) -> None:
    good, bad = ("fine", "warm", "moving", "clever"), ("dull", "slow", "empty", "loud")
    texts = [f"This film is {rng.choice((good, bad)[i % 2])} and the cast is {rng.choice(good)}." for i in range(80)]
    lines = ["text,label", *(f"{text},{('good', 'bad')[i % 2]}" for i, text in enumerate(texts))]
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("articles.txt", "large.txt"):
        (folder / name).write_text("\n".join(texts * 3) + "\n", encoding="utf-8")
    (folder / "another.txt").write_text("What a dull film.\n", encoding="utf-8")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out torchvision's file of weights, with random ones."""
    home = tmp_path_factory.mktemp("torch")
    made = python(home, home, "-c", MAKE_WEIGHTS)
    assert made.returncode == 0, made.stderr
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Lay out what the pages talk about: photos, tables, films, series."""
    rng = np.random.default_rng(0)
    photos(tmp_path / "photos", rng, 6)
    photos(tmp_path / "more_photos", rng, 3)
    people(tmp_path / "people.csv", rng)
    for name in ("more_people.csv", "new_people.csv"):
        people(tmp_path / name, rng)
    films(tmp_path / "ml-latest-small", rng)
    for name in ("series.csv", "new.csv"):
        waves(tmp_path / name, rng)
    reviews(tmp_path, rng)
    ratings = (tmp_path / "ml-latest-small" / "ratings.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "newer.csv").write_text("\n".join(ratings[::9]) + "\n", encoding="utf-8")
    (tmp_path / "stars.csv").write_text("\n".join(["who,what,stars,timestamp", *ratings[1:]]) + "\n", encoding="utf-8")
    (tmp_path / "pairs.csv").write_text("userId,movieId\n1,2\n3,4\n", encoding="utf-8")
    shutil.copy(tmp_path / "photos" / "cat" / "1.jpg", tmp_path / "some.jpg")
    return tmp_path


@pytest.fixture(scope="session")
def server(weights: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the process whose copies run the pages."""
    environment = os.environ | surroundings(weights)
    command = [sys.executable, str(RUNNER)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=weights, env=environment) as process:
        yield process
        process.stdin.close()


def served(server: subprocess.Popen[str], folder: Path, page: str) -> str:
    """Have a page run; return what it printed."""
    server.stdin.write(json.dumps([str(folder), str(ROOT / page)]) + "\n")
    server.stdin.flush()
    status = server.stdout.readline()
    output = (folder / "output.txt").read_text(encoding="utf-8")
    assert status == "0\n", output[-5000:]
    return output


# A plugin's README and its tutorial show much the same: the tutorial stands for both.
RUN = [
    pytest.param(page, marks=pytest.mark.long) if page.endswith("/README.md") and page != "core/README.md" else page
    for page in PAGES
    if runs(page)
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(page: str, folder: Path, server: subprocess.Popen[str]) -> None:
    output = served(server, folder, page)
    for block in blocks(page):
        ran = f"--- {Path(page).name}, line {block.line}\n" in output
        assert ran == (block.language in pages["RUN"] and not block.why_not), f"{page}:{block.line}"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_it_holds(notebook: str, tmp_path: Path, server: subprocess.Popen[str]) -> None:
    served(server, tmp_path, notebook)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = blocks(page)
    assert text.count("\n```") == 2 * len(found), f"{page}: a block is not closed, or not found by the runner"
    for block in found:
        assert block.language in LANGUAGES, f"{page}:{block.line - 1}: the block's language is {block.language!r}"


def test_few_blocks_are_not_run_and_they_say_why() -> None:
    marked = [(page, block) for page in PAGES for block in blocks(page) if block.why_not is not None]
    assert len(marked) <= MOST_MARKED
    for page, block in marked:
        assert block.language in pages["RUN"], f"{page}:{block.line}: a block of {block.language} is never run"
        assert len(block.why_not.split()) >= 2, f"{page}:{block.line}: {block.why_not!r} is no reason"


def test_the_runner_stops_at_what_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    good = "```python\nx = 1\n```\n\n<!-- not run: it would fail -->\n```python\n1 / 0\n```\n"
    page.write_text(good + "\n```python\nassert x == 1\n```\n", encoding="utf-8")
    assert python(tmp_path, tmp_path, str(RUNNER), str(page)).returncode == 0
    for bad in ("```python\nassert x == 2\n```\n", "```sh\ngraft no-such-command\n```\n", "```sh\nls\n```\n"):
        page.write_text(good + "\n" + bad, encoding="utf-8")
        assert python(tmp_path, tmp_path, str(RUNNER), str(page)).returncode == 1
    page.write_text(good + "\n```python\nraise KeyError\n```\n", encoding="utf-8")
    assert 'page.md", line 11' in python(tmp_path, tmp_path, str(RUNNER), str(page)).stderr


def test_the_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is not in the Makefile"
