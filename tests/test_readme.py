"""The Python blocks of the READMEs run as they stand, one after another in a file's order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FILES = ["README.md", "core/README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("*_plugin/README.md"))]
MAKE_WEIGHTS = """
import torch
from pathlib import Path
from torchvision.models import resnet18
torch.manual_seed(0)
folder = Path(torch.hub.get_dir()) / "checkpoints"
folder.mkdir(parents=True)
torch.save(resnet18().state_dict(), folder / "resnet18-f37072fd.pth")
"""


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TORCH_HOME": str(folder / "torch"), "OMP_NUM_THREADS": "1"}
    (folder / "block.py").write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "block.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Lay out what the examples talk about: photos, a table, films, and torchvision's file of weights (random ones)."""
    rng = np.random.default_rng(0)
    for name, colour in {"cat": (200, 120, 60), "dog": (60, 120, 200)}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(1, 9):
            pixels = np.array(colour) + rng.integers(-40, 40, (140, 150, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / name / f"{i}.jpg")
    people(tmp_path / "people.csv", rng)
    films(tmp_path / "ml-latest-small", rng)
    made = run(MAKE_WEIGHTS, tmp_path)
    assert made.returncode == 0, made.stderr
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_python_blocks_run(name: str, folder: Path) -> None:
    code = blocks((ROOT / name).read_text(encoding="utf-8"))
    assert code, f"{name} shows no Python"
    done = run("\n".join(code), folder)
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is not in the Makefile"
