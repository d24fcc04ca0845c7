"""Run notebooks without Jupyter, and keep what their cells show: `python docs/tools/notebooks.py [NOTEBOOK ...]`.

A cell's last expression is shown as a notebook would show it, as HTML, a picture or text; what is printed is kept too.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LONGEST = 4000
"""Letters of a printed output that are kept."""


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run the code cells in the current folder, in one namespace; return the notebook with their outputs."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    cells = [dict(cell) for cell in notebook["cells"]]
    for number, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        cell["execution_count"], cell["outputs"] = number, outputs_of("".join(cell["source"]), number, vars(module))
    return notebook | {"cells": cells}


def outputs_of(code: str, number: int, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
        shown = [] if value is None else [result(value, number)]
    text = printed.getvalue()
    stream = {"output_type": "stream", "name": "stdout", "text": text[:LONGEST].splitlines(keepends=True)}
    return [stream, *shown] if text else shown


def result(value: Any, number: int) -> dict[str, Any]:
    """Return what a notebook keeps of a value, by the methods of its class."""
    # An address in memory would be another one each time.
    text = re.sub(r" at 0x[0-9a-f]+>", ">", repr(value)[:LONGEST])
    data: dict[str, Any] = {"text/plain": text.splitlines(keepends=True)}
    if hasattr(type(value), "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode()
    elif hasattr(type(value), "_repr_html_"):
        data["text/html"] = value._repr_html_().splitlines(keepends=True)
    return {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data}


def kinds(notebook: dict[str, Any]) -> list[list[list[str]]]:
    """Return, for every code cell, the forms of its outputs: what must be the same each time."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[sorted(output.get("data", ("stream",))) for output in cell["outputs"]] for cell in cells]


def check(path: Path) -> None:
    """Run a notebook; raise AssertionError where its cells show something of another kind than what it holds."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found, kept = kinds(run(notebook)), kinds(notebook)
    assert found == kept, f"{path.name}: cells show {found}, and the notebook holds {kept}; run docs/tools/notebooks.py"


def main(paths: list[Path]) -> None:
    for path in paths or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            before = Path.cwd()
            os.chdir(folder)
            done = run(notebook)
            os.chdir(before)
        path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([Path(name).resolve() for name in sys.argv[1:]])
