"""`graft show FILE`: it says what is in a file, with no plugin installed and without torch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from graftwork.cli.main import main
from graftwork.cli.show import command
from graftwork.container import write_container

MANIFEST = {
    "kind": "learner",
    "graftwork": "0.1.0",
    "task": {"id": "depth/classification", "config": {"size": 128}},
    "model": {"id": "depth/resnet18", "config": {"n_out": 4}},
    "losses": {"y": {"id": "core/cross_entropy", "config": {}}},
    "metrics": {"accuracy": 0.98125, "auc": None},
    "seed": 7,
    "rows": {"train": 15000, "valid": 50},
    "parameters": 11178564,
    "extra": {"epochs": 3},
    "plan": {
        "fields": {"x": {"id": "depth/image", "config": {"channels": 3}}, "y": {"id": "core/category", "config": {}}},
        "inputs": ["x"],
        "targets": ["y"],
        "item": [
            {"x": {"id": "depth/resize", "config": {"size": 128}}},
            {"y": {"id": "core/categorize", "config": {"vocab": [f"class {i}" for i in range(100)]}}},
        ],
        "batch": [{"x": {"id": "depth/normalize", "config": {}}}],
    },
    "plugins": {
        "core": {"distribution": "graftwork", "version": "0.1.0", "api": [1, 0]},
        "depth": {"distribution": "graftwork-depth", "version": "3.2", "api": [1, 0]},
    },
}
MEMBERS = {"weights.safetensors": bytes(200_000)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_container(tmp_path / "model.graft", manifest=MANIFEST, members=MEMBERS)


def shown(file: Path, *options: str) -> str:
    result = CliRunner().invoke(command, [str(file), *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_it_says_what_the_file_holds(file):
    text = shown(file)
    for line in (
        f"file        {file}, 0.2 MB, written by graftwork 0.1.0, format 1; every byte verified",
        'task        depth/classification  {"size": 128}',
        'model       depth/resnet18  {"n_out": 4}',
        "loss of y   core/cross_entropy",
        "parameters  11,178,564",
        "training    train 15,000 items; valid 50 items; seed 7; epochs 3",
        "accuracy  0.9812",
        "auc       -",
        'x      input   depth/image      {"channels": 3}',
        'item    depth/resize     {"size": 128}',
        "batch   depth/normalize",
        "y      target  core/category",
        "depth   graftwork-depth 3.2  not installed: pip install graftwork-depth",
        "weights.safetensors  0.2 MB",
    ):
        assert line in text, line
    assert "…" in text
    assert "class 99" not in text


def test_json_is_one_line_with_everything(file):
    lines = shown(file, "--json").splitlines()
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert found["bytes"] == file.stat().st_size
    assert {name: found["manifest"][name] for name in MANIFEST} == MANIFEST


def test_a_checkpoint_is_shown_as_well(tmp_path):
    manifest = {"kind": "checkpoint", "graftwork": "0.1.0", "epoch": 4, "record": {"valid_loss": 0.25, "seconds": 1.5}}
    text = shown(write_container(tmp_path / "epoch-0004.graft", manifest=manifest, members=MEMBERS))
    assert "kind        checkpoint" in text
    assert "epoch 4" in text
    assert "valid_loss  0.25" in text


def test_a_damaged_file_is_refused_with_status_2_and_no_traceback(file, capsys):
    data = bytearray(file.read_bytes())
    data[-300_00] ^= 4
    file.write_bytes(data)
    assert main(["show", str(file)]) == 2
    error = capsys.readouterr().err
    assert "the bytes of member 'weights.safetensors'" in error
    assert "Traceback" not in error
    assert main(["show", str(file.with_name("none.graft"))]) == 2
    assert "no such file" in capsys.readouterr().err


def test_what_a_terminal_would_obey_is_written_out(tmp_path):
    manifest = {**MANIFEST, "graftwork": "0.1\x1b[31m\n\x9b", "model": {"id": "x/\x07", "config": {"a": "\x1b]0;"}}}
    text = shown(write_container(tmp_path / "m.graft", manifest=manifest, members=MEMBERS))
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\x07" not in text
    assert "\\x1b[31m" in text


def scrambled(value: object, rng: random.Random) -> object:
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        return {**value, key: scrambled(value[key], rng)}
    return rng.choice([None, True, 3, 2.5, "x", [], [1], {}, {"id": 3}, {"x": {"config": [1]}}, [[]], "é\ud800"[:1]])


def test_any_sealed_manifest_is_shown(tmp_path):
    rng = random.Random(0)
    for _ in range(300):
        manifest = scrambled(MANIFEST, rng)
        if isinstance(manifest, dict):
            path = write_container(tmp_path / "m.graft", manifest=manifest, members=MEMBERS)
            assert "every byte verified" in shown(path)
            json.loads(shown(path, "--json"))


def test_it_imports_neither_torch_nor_plugins(file):
    code = (
        "import sys; from graftwork.cli.main import main; main(['show', sys.argv[1]]);"
        "print([m for m in ('torch', 'numpy', 'safetensors', 'pluggy', 'graftwork.plugins') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
