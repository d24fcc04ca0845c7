"""The package as a whole: its public names, its records, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graftwork_vision
from graftwork.api import TransformSpec, get_host
from graftwork_vision import plugin

HEAVY = ("torch", "torchvision", "numpy", "pandas", "sklearn", "matplotlib", "PIL", "torchmetrics", "rich", "scipy")
SOURCE = Path(graftwork_vision.__file__).parent


def run(code: str) -> str:
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    return found.stdout.strip()


class TestNames:
    """What can be imported from the top."""

    def test_they_are_sorted(self):
        assert list(graftwork_vision.__all__) == sorted(set(graftwork_vision.__all__))

    @pytest.mark.parametrize("name", graftwork_vision.__all__)
    def test_each_is_there_and_public_in_its_module(self, name):
        from importlib import import_module

        value = getattr(graftwork_vision, name)
        homes = [m for m, names in graftwork_vision._HOMES.items() if name in names.split()]
        assert len(homes) == 1
        home = import_module(f"graftwork_vision.{homes[0]}")
        assert name in home.__all__
        assert vars(home)[name] is value

    def test_type_checkers_see_the_same_names(self):
        tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
        imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0 for a in n.names]
        assert set(graftwork_vision.__all__) <= set(imported)

    def test_a_misspelt_name(self):
        with pytest.raises(AttributeError, match="did you mean 'vision_learner'"):
            _ = graftwork_vision.vision_lerner

    def test_dir_lists_them(self):
        assert set(graftwork_vision.__all__) <= set(dir(graftwork_vision))

    def test_all_offers_them_and_the_cores(self):
        import graftwork
        from graftwork_vision import all as everything

        assert list(everything.__all__) == sorted({*graftwork.__all__, *graftwork_vision.__all__})
        assert everything.DataBlock is graftwork.DataBlock
        assert everything.Resize is graftwork_vision.Resize

    def test_star_import_works(self):
        run("from graftwork_vision.all import *; Resize(8), DataBlock, vision_learner, accuracy")

    @pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda p: p.name)
    def test_every_module_says_what_is_public_sorted(self, path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lists = [
            n.value
            for n in tree.body
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id == "__all__"
        ]
        if path.name in ("plugin.py", "all.py"):  # hooks are found by their marker; all is made of the others
            return
        (names,) = (ast.literal_eval(value) for value in lists)
        assert list(names) == sorted(names)

    @pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda p: p.name)
    def test_the_core_is_reached_through_its_api_alone(self, path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        also = {"all.py": {"graftwork"}, "conformance.py": {"graftwork.testing"}}
        allowed = {"graftwork.api"} | also.get(path.name, set())
        assert {m for m in modules if m.split(".")[0] == "graftwork"} <= allowed


class TestImport:
    """What importing costs."""

    @pytest.mark.parametrize("module", ["graftwork_vision", "graftwork_vision.plugin", "graftwork_vision.tasks"])
    def test_nothing_heavy(self, module):
        found = run(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])")
        assert found == "[]"

    def test_discovery_imports_nothing_heavy(self):
        code = (
            "import sys; from graftwork.plugins import get_host; host = get_host(); host.models.ids();"
            f"print(len(host.models.ids()) > 80, [m for m in {HEAVY} if m in sys.modules])"
        )
        assert run(code) == "True []"


class TestRecords:
    """What the plugin hands in."""

    def test_the_plugin_is_whole(self):
        from graftwork.plugins import get_host

        assert plugin.PLUGIN.namespace == "vision"
        assert get_host().blocks.owner("vision/image") == "vision"

    @pytest.mark.parametrize("kind", ["blocks", "transforms", "models", "baselines", "sources", "tasks"])
    def test_every_target_is_there_under_its_own_id(self, kind):
        from graftwork.plugins import get_host

        registry = {
            "blocks": get_host().blocks,
            "transforms": get_host().transforms,
            "models": get_host().models,
            "baselines": get_host().baselines,
            "sources": get_host().sources,
            "tasks": get_host().tasks,
        }[kind]
        ours = [i for i in registry.ids() if i.startswith("vision/")]
        assert ours
        for name in ours:
            target = registry.get(name)
            assert target is not None
            if kind in ("blocks", "transforms", "tasks"):
                assert target.id == name

    def test_transforms_are_what_their_records_say(self):
        import numpy as np

        host = get_host()
        made = {
            "vision/resize": {"size": 8},
            "vision/random-resized-crop": {"size": 8},
            "vision/torchvision": {"name": "RandomGrayscale"},
            "vision/albumentations": {"name": "CLAHE"},
            "vision/normalize": {"mean": (0.5,) * 3, "std": (1.0,) * 3},
        }
        for name in (i for i in host.transforms.ids() if i.startswith("vision/")):
            spec: TransformSpec = host.transforms.spec(name)
            transform = host.transforms.get(name)(**made.get(name, {}))
            block = host.blocks.get(spec.accepts[0])()
            block = block if transform.accepts(block) else type(block)(scale="unit")
            assert transform.accepts(block), name
            assert transform.out_block(block).id == spec.gives
            assert transform.stage == spec.stage
            assert transform.random == spec.random
            assert (transform.bind(block).decode is not None) == spec.invertible
            assert block.check(block.mock(np.random.default_rng(0))) is None

    def test_a_folder_of_pictures_is_claimed(self, two_classes, tmp_path):
        assert plugin.graftwork_resolve_source(location=str(two_classes)) == "vision/folder"
        assert plugin.graftwork_resolve_source(location=str(tmp_path / "nowhere")) is None
