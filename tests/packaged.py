"""What test_packaging.py does inside an environment that holds installed wheels.

python packaged.py look=PACKAGE       imports every module, and says which plugins there are
python packaged.py train=PACKAGE      trains the package's own example in a folder of its name, and predicts
python packaged.py export=PACKAGE     the same without training: a model as it was drawn, and what it predicts
python packaged.py predict=PACKAGE    predicts once more with what was written there
python packaged.py core               trains with the core alone

Several words are done one after another in one process: importing torch in each would take most of the time.
"""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from graftwork import get_host
from graftwork.cli.main import main

NEED_EXTRAS = {"graftwork_text.torchtext_bridge"}
"""Modules that say at import which extra they are for."""


def graft(*arguments: str) -> Any:
    """Run a command as the user would, and return its JSON."""
    with redirect_stdout(io.StringIO()) as out:
        status = main([*arguments, "--json"])
    assert status == 0, (arguments, status)
    return json.loads(out.getvalue().splitlines()[-1])


def look(name: str) -> dict[str, Any]:
    """Import all of a package, but for what only those import who run the checks by pytest."""
    package = importlib.import_module(name)
    modules = {m.name for m in pkgutil.walk_packages(package.__path__, f"{name}.")}
    for module in modules - {"graftwork.__main__", "graftwork.testing.pytest_plugin", *NEED_EXTRAS}:
        importlib.import_module(module)
    states = {info.name: info.state for info in get_host().plugins()}
    return {"modules": len(modules), "file": package.__file__, "plugins": states}


def lay(name: str) -> tuple[Any, Path, Path]:
    """Lay out the source of a package's own example, and what it has to predict."""
    examples = importlib.import_module(f"{name}.conformance").EXAMPLES
    example = next(example for example in examples.tasks if example.inputs)
    folder = Path(name).absolute()
    (folder / "source").mkdir(parents=True)
    source = example.write(folder / "source")
    (folder / "inputs.json").write_text(json.dumps(list(example.inputs(source))))
    return example, source, folder / "run"


def train(name: str) -> Any:
    """Train the task of a package's own example beside its baselines, then use the artifact."""
    example, source, run = lay(name)
    options = {**example.job, **example.options, "epochs": 1, "device": "cpu", "workers": 0, "out": run}
    words = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
    report = graft("train", example.task, str(source), *words)
    assert report["task"] == example.task
    assert report["baseline"]["metrics"]
    return predict(name)


def export(name: str) -> Any:
    """Write an artifact of the example's task without training it."""
    from graftwork.task import JobOptions

    example, source, run = lay(name)
    kind = get_host().tasks.get(example.task)
    task = kind(kind.Options(**example.options))
    job = JobOptions(**{**example.job, "device": "cpu", "workers": 0})
    run.mkdir()
    ref = {"id": example.task, "config": task.to_config()}
    task.learner(task.data(source, job), job).export(run / "model.graft", task=ref)
    return predict(name)


def predict(name: str) -> Any:
    """Predict what was written down when the model was trained."""
    inputs = json.loads((Path(name) / "inputs.json").read_text())
    return graft("predict", str(Path(name) / "run" / "model.graft"), *inputs)["predictions"]


def core() -> str:
    """Train with the core and nothing else."""
    from torch import nn

    from graftwork import CategoryBlock, DataBlock, Learner, RegressionBlock

    items = [([x, 1 - x], "high" if x > 0.5 else "low") for x in (i / 100 for i in range(100))]
    data = DataBlock(blocks=(RegressionBlock(2), CategoryBlock)).dataloaders(items, bs=16)
    learn = Learner(data, nn.Linear(2, 2), lr=0.1, progress=False).fit(5)
    return str(learn.predict([0.9, 0.1]).value)


VERBS = {"look": look, "train": train, "export": export, "predict": predict}

if __name__ == "__main__":
    found: dict[str, Any] = {}
    for word in sys.argv[1:]:
        verb, _, package = word.partition("=")
        found[word] = VERBS[verb](package) if package else core()
    print(json.dumps(found))
