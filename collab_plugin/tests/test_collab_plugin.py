"""The package as a whole: its public names, its records, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graftwork_collab
from graftwork.api import get_host

HEAVY = ("torch", "numpy", "pandas", "pyarrow", "numba", "scipy", "sklearn", "matplotlib", "graftwork_tabular", "rich")
SOURCE = Path(graftwork_collab.__file__).parent
KINDS = ("blocks", "transforms", "models", "baselines", "tasks", "sources", "losses", "metrics")


def run(code: str) -> str:
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    return found.stdout.strip()


class TestNames:
    """What can be imported from the top."""

    @pytest.mark.parametrize("name", graftwork_collab.__all__)
    def test_each_is_there_and_public_in_its_module(self, name):
        from importlib import import_module

        value = getattr(graftwork_collab, name)
        homes = [module for module, names in graftwork_collab._HOMES.items() if name in names.split()]
        assert len(homes) == 1
        home = import_module(f"graftwork_collab.{homes[0]}")
        assert name in home.__all__
        assert vars(home)[name] is value

    def test_none_is_left_out(self):
        assert sorted(" ".join(graftwork_collab._HOMES.values()).split()) == sorted(graftwork_collab.__all__)
        assert set(graftwork_collab.__all__) <= set(dir(graftwork_collab))

    def test_type_checkers_see_the_same_names(self):
        tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
        imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0 for a in n.names]
        assert set(graftwork_collab.__all__) <= set(imported)

    def test_a_misspelt_name(self):
        with pytest.raises(AttributeError, match="did you mean 'collab_learner'"):
            _ = graftwork_collab.colab_learner

    def test_all_offers_them_and_the_cores(self):
        import graftwork
        from graftwork_collab import all as everything

        assert list(everything.__all__) == sorted({*graftwork.__all__, *graftwork_collab.__all__})
        assert everything.collab_learner is graftwork_collab.collab_learner
        run("from graftwork_collab.all import *; collab_learner, Learner, rmse")

    @pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda p: p.name)
    def test_others_are_reached_through_their_public_names(self, path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        theirs = {m for m in modules if m.split(".")[0] in ("graftwork", "graftwork_tabular", "graftwork_vision")}
        kit = {"graftwork.testing"} if path.name == "conformance.py" else set()
        assert theirs <= {"graftwork", "graftwork.api", "graftwork_tabular"} | kit


class TestImport:
    """What importing costs."""

    @pytest.mark.parametrize("module", ["graftwork_collab", "graftwork_collab.plugin", "graftwork_collab.tasks"])
    def test_nothing_heavy(self, module):
        assert run(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"

    def test_a_prediction_needs_no_pandas_and_no_numba(self, ratings, tmp_path):
        from graftwork.api import Runtime
        from graftwork_collab import CollabDataLoaders, collab_learner

        data = CollabDataLoaders.from_df(ratings)
        path = collab_learner(data, 4, runtime=Runtime(device="cpu"), progress=False).export(tmp_path / "m.graft")
        code = (
            "import sys; from graftwork import load_learner\n"
            f"value = load_learner({str(path)!r}).predict({{'user': 1, 'item': 5}}).value\n"
            "print(0 < value < 6, [m for m in ('pandas', 'pyarrow', 'numba') if m in sys.modules])"
        )
        assert run(code) == "True []"


class TestRecords:
    """What the plugin hands in."""

    def test_it_is_sound(self):
        (info,) = [info for info in get_host().plugins() if info.name == "collab"]
        assert info.state == "ok"

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_target_is_there_and_has_its_id(self, kind):
        registry = {
            "blocks": get_host().blocks,
            "transforms": get_host().transforms,
            "models": get_host().models,
            "baselines": get_host().baselines,
            "tasks": get_host().tasks,
            "sources": get_host().sources,
            "losses": get_host().losses,
            "metrics": get_host().metrics,
        }[kind]
        own = [name for name in registry.ids() if name.startswith("collab/")]
        assert own or kind in ("losses", "metrics")
        for name in own:
            target = registry.get(name)
            assert callable(target)
            if kind in ("blocks", "transforms", "tasks"):
                assert target.id == name

    def test_what_a_record_names_is_registered(self):
        host = get_host()
        for name in (n for n in host.models.ids() if n.startswith("collab/")):
            spec = host.models.spec(name)
            for block in (*spec.inputs, spec.output):
                assert host.blocks.spec(block).id == block
        task = host.tasks.spec("collab/ratings")
        assert [host.baselines.spec(name).id for name in task.defaults["baselines"]] == ["core/mean", "collab/biases"]
        assert host.models.spec(task.defaults["model"][0]).id == "collab/dot-bias"

    def test_a_folder_of_movielens_is_claimed(self, movielens):
        assert get_host().resolve_source(str(movielens)) == "collab/movielens"

    def test_help_says_what_can_be_chosen(self):
        found = subprocess.run(
            [sys.executable, "-m", "graftwork", "train", "collab/ratings", "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        assert all(word in found.stdout for word in ("--user", "--y-range", "--split", "--factors", "--item-features"))
