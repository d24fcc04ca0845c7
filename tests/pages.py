"""Run the code blocks of a page one after another, as its reader would: `python pages.py PAGE`.

Without a page it serves: for each line `["FOLDER", "PAGE"]` on its input it runs a page in a copy of itself that has
the large libraries already, and answers with the status; what was printed is in the folder's output.txt.

Python blocks share one namespace, and errors point to the page's own lines. Of shell blocks, lines that begin with
`graft` go through the command line's own entry, here, since starting Python anew for each would cost seconds. A block
that cannot be run says why in a comment before it: `<!-- not run: it installs packages -->`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shlex
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+?) -->\n+)?(?P<marks>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=marks)[ ]*$",
    re.DOTALL | re.MULTILINE,
)
RUN = ("python", "sh")
NOTEBOOKS = Path(__file__).parents[1] / "docs" / "tools" / "notebooks.py"
PRELOADED = (
    "matplotlib.figure",
    "numba",
    "pandas",
    "pyarrow.csv",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "torch",
    "torchmetrics",
    "graftwork.cli.train",
    "graftwork.job",
    "graftwork.learner",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Hold one block of a page; `line` is its first line of code, counted from 1."""

    language: str
    code: str
    line: int
    why_not: str | None


def fences(text: str) -> list[Fence]:
    return [
        Fence(
            language=found["language"].strip(),
            code=found["code"],
            line=text.count("\n", 0, found.start("code")) + 1,
            why_not=found["why"],
        )
        for found in FENCE.finditer(text)
    ]


def commands(code: str) -> Iterator[list[str]]:
    """Split a shell block into its commands, without comments."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_shell(fence: Fence) -> None:
    from graftwork.cli.main import main

    for words in commands(fence.code):
        assert words[0] == "graft", f"line {fence.line}: {shlex.join(words)!r} is no graft command; mark the block"
        status = main(words[1:])
        assert status == 0, f"line {fence.line}: {shlex.join(words)!r} ended with {status}"


def run_page(page: Path) -> None:
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    for fence in fences(page.read_text(encoding="utf-8")):
        if fence.language not in RUN or fence.why_not:
            continue
        print(f"--- {page.name}, line {fence.line}", flush=True)
        if fence.language == "sh":
            run_shell(fence)
        else:
            # Empty lines before it make the lines of a traceback those of the page.
            exec(compile("\n" * (fence.line - 1) + fence.code, str(page), "exec"), vars(module))


def run_copy(folder: str, page: str) -> int:
    """Run a page in a forked process; return its exit status."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if page.endswith(".ipynb"):
            runpy.run_path(str(NOTEBOOKS))["check"](Path(page))
        else:
            run_page(Path(page))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(run_copy(*json.loads(line)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        run_page(Path(sys.argv[1]))
    else:
        serve()
