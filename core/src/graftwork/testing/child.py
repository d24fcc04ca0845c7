"""What is looked at in a process of its own: what an import brings in and changes, and whether a run is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from time import perf_counter
from typing import Any, Final

from graftwork.plugins.admission import HEAVY

__all__ = ["ask"]

LIMIT_S: Final = 120


def ask(question: str, **arguments: Any) -> dict[str, Any]:
    """Answer a question in a fresh process that sees the same modules; what it printed is under "out" and "err"."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRAFTWORK_")}
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "graftwork.testing.child", question, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT_S, check=False)
    out, mark, answer = done.stdout.rpartition("\nANSWER ")
    if done.returncode or not mark:
        return {"error": done.stderr.strip().splitlines()[-1:] or ["nothing"], "out": out, "err": done.stderr}
    return {**json.loads(answer), "out": out, "err": done.stderr}


def _state() -> dict[str, str]:
    """Describe what is global and nobody's to change."""
    found = {
        "environment": repr(sorted(os.environ.items())),
        "working folder": str(os.getcwd()),  # noqa: PTH109 - compared as it is
        "sys.path": repr(sys.path),
        "warnings filters": repr(list(warnings.filters)),
    }
    import random

    found["random's state"] = str(hash(random.getstate()))
    if "numpy" in sys.modules:
        import numpy as np

        found["numpy's random state"] = str(hash(str(np.random.get_state())))  # noqa: NPY002 - the global one is asked about
        found["numpy's print options"] = repr(np.get_printoptions())
        found["numpy's error handling"] = repr(np.geterr())
    if "torch" in sys.modules:
        found |= _torch_state()
    return found


def _torch_state() -> dict[str, str]:
    import torch

    return {
        "torch's random state": str(hash(bytes(torch.get_rng_state().tolist()))),
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's grad mode": str(torch.is_grad_enabled()),
        "torch's deterministic mode": str(torch.are_deterministic_algorithms_enabled()),
        "torch's cudnn flags": f"{torch.backends.cudnn.benchmark} {torch.backends.cudnn.deterministic}",
        "torch's matmul precision": torch.get_float32_matmul_precision(),
    }


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def entry(target: str) -> dict[str, Any]:
    """Import an entry module and say what that costs, brings in and changes."""
    import graftwork.api  # noqa: F401 - its time is not the plugin's

    loaded, before, began = set(sys.modules), _state(), perf_counter()
    import_module(target.partition(":")[0].strip())
    ms = (perf_counter() - began) * 1e3
    new = {name.partition(".")[0] for name in set(sys.modules) - loaded}
    own = target.partition(".")[0].partition(":")[0]
    foreign = sorted(new - set(sys.stdlib_module_names) - {own} - {n for n in new if n.startswith("graftwork")})
    return {"ms": ms, "heavy": sorted(set(HEAVY) & new), "foreign": foreign, "changed": _changed(before, _state())}


def whole(libraries: list[str], modules: list[str], train: bool) -> dict[str, Any]:
    """Import all of a plugin, say what that changes, and train the core's toy model before and after it.

    The libraries come first: what they change themselves is not the plugin's doing.
    """
    for name in libraries:
        with suppress(ImportError):
            import_module(name)
    first = _toy_run() if train else ""
    before = _state()
    for name in modules:
        import_module(name)
    changed = _changed(before, _state())
    try:
        second = _toy_run() if train else ""
    except Exception as error:
        second = f"{type(error).__name__}: {error}"
    return {"changed": changed, "alone": first, "beside": second}


def _toy_run() -> str:
    """Train the core's own toy model and return a digest of its weights and figures."""
    import hashlib

    import torch

    from graftwork.learner import Learner
    from graftwork.testing.toy import make_items, mlp, recipe
    from graftwork.weights import pack

    torch.set_num_threads(1)
    torch.manual_seed(0)
    learn = Learner(recipe().dataloaders(make_items(64), bs=16, workers=0), mlp(), progress=False).fit_one_cycle(
        2, 1e-2
    )
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in learn.history]
    return hashlib.sha256(pack(learn.module.state_dict()) + json.dumps(rows).encode()).hexdigest()


def usage(task: str, entry: str) -> dict[str, Any]:
    """Ask for a task's help, and say which large libraries that brought in."""
    from graftwork.cli.main import main
    from graftwork.plugins import get_host

    if entry:
        get_host().register(import_module(entry))
    status = main(["train", task, "--help"])
    return {"status": status, "heavy": [name for name in HEAVY if name in sys.modules]}


if __name__ == "__main__":
    answers: dict[str, Callable[..., dict[str, Any]]] = {"entry": entry, "whole": whole, "usage": usage}
    print("\nANSWER " + json.dumps(answers[sys.argv[1]](**json.loads(sys.argv[2]))))
