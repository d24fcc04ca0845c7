"""The harness' statistics are right, and every case measures what it says: here on a few steps, in smoke runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))  # `bench` is no installed package

from bench import harness
from bench.cases import CASES, load
from bench.harness import Check, Options, Report, Runner, Side, Spread, alternate, differences, ratios, slope

ROOT = Path(__file__).parents[1]
numbers = st.floats(0.01, 1e6)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def smoke(case: str, *sides: str) -> dict[str, Any]:
    """Run a case on a few steps and return its JSON line."""
    done = bench(case, "--smoke", *(word for side in sides for word in ("--only", side)))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["case"] == case
    assert found["smoke"] is True
    assert all(side["count"] >= 1 for side in found["sides"].values())
    if case != "overhead":  # a slope between two short runs may fall below nothing on a busy machine
        assert all(side["least"] > 0 for side in found["sides"].values())
    return found


def figures(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["what"]: figure for figure in found["figures"]}


class TestStatistics:
    @given(st.lists(numbers, min_size=1, max_size=20))
    def test_a_spread_is_ordered(self, values: list[float]) -> None:
        spread = Spread.of(values)
        assert spread.least <= spread.low <= spread.median <= spread.high <= max(values)
        assert spread.median == statistics.median(values)
        assert spread.count == len(values)

    def test_quartiles_of_five_values_are_values(self) -> None:
        assert Spread.of([5, 1, 4, 2, 3]) == Spread(median=3, low=2, high=4, least=1, count=5)

    @given(st.lists(numbers, min_size=1, max_size=9), st.floats(0.5, 2))
    def test_a_ratio_is_found_whatever_the_machine_does(self, base: list[float], factor: float) -> None:
        """A machine ten times slower in some rounds is so for both sides."""
        assert ratios([factor * value for value in base], base).median == pytest.approx(factor)

    def test_pairs_are_compared_within_their_round(self) -> None:
        """The medians of both sides are the same; in two rounds of three, one took a unit longer."""
        assert differences([2.0, 11.0, 100.0], [1.0, 10.0, 200.0]).median == 1.0

    def test_sides_of_different_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            ratios([1.0, 2.0, 3.0], [1.0, 2.0])

    @given(st.floats(0, 100), st.floats(0.001, 10))
    def test_a_slope_leaves_out_what_a_run_costs_once(self, once: float, each: float) -> None:
        assert slope(lambda steps: once + each * steps, 500, 2500, repeats=3) == pytest.approx(each, rel=1e-6, abs=1e-9)

    def test_one_disturbed_repeat_does_not_change_a_slope(self) -> None:
        calls = iter([10.0, 30.0, 10.0, 500.0, 10.0, 30.0])
        assert slope(lambda _: next(calls), 10, 20, repeats=3) == 2.0

    def test_measures_take_turns_forwards_and_backwards(self) -> None:
        calls: list[str] = []

        def measure(name: str) -> float:
            calls.append(name)
            return float(len(calls))

        found = alternate({name: partial(measure, name) for name in "abc"}, 2, warm_up=1)
        assert "".join(calls) == "abccbaabc"
        assert found == {"a": [6, 7], "b": [5, 8], "c": [4, 9]}


class TestReport:
    def report(self) -> Report:
        report = Report(case="overhead", smoke=False)
        report.add("raw", [100.0, 200.0, 150.0], "µs/step")
        report.add("ours", [110.0, 205.0, 160.0], "µs/step", base="raw")
        report.checks.append(Check(what="gap", value=10.0, unit="µs/step", target=10.0))
        report.checks.append(Check(what="share", value=0.97, target=0.98, better="high"))
        report.checks.append(Check(what="only told", value=3.0))
        return report

    def test_a_target_is_met_on_its_side(self) -> None:
        assert [check.met for check in self.report().checks] == [True, False, None]

    def test_the_table_shows_ratio_difference_and_misses(self) -> None:
        lines = self.report().table().splitlines()
        ours = next(line for line in lines if line.startswith("ours"))
        assert "160" in ours
        assert "1.067" in ours  # the median of 1.1, 1.025 and 1.0667
        assert "+10" in ours
        assert sum("MISSED" in line for line in lines) == 1
        assert sum(line.endswith("met") for line in lines) == 1

    def test_the_json_line_is_one_line_and_holds_all(self) -> None:
        line = self.report().json_line()
        assert "\n" not in line
        found = json.loads(line)
        assert found["sides"]["ours"]["median"] == 160
        assert found["sides"]["ours"]["values"] == [110, 205, 160]
        assert [figure["met"] for figure in found["figures"]] == [True, False, None]
        assert found["machine"]["cores"] >= 1


class TestProcesses:
    def test_a_terminal_is_one(self) -> None:
        code = "import sys; print(sys.stdout.isatty(), sys.stderr.isatty())"
        status, output = harness._on_terminal([sys.executable, "-c", code], harness._environment(None))
        assert status == 0
        assert output.split() == ["True", "True"]

    def test_torch_gets_the_threads_it_is_given(self) -> None:
        code = "import os; print(os.environ['OMP_NUM_THREADS'])"
        assert harness._captured([sys.executable, "-c", code], harness._environment(1)) == (0, "1\n")

    def test_a_side_that_fails_says_why(self) -> None:
        runner = Runner(case="overhead", options=Options())
        side = next(side for side in load("overhead").SIDES if side.name == "raw")
        with pytest.raises(RuntimeError, match=r"(?s)side 'raw' failed, status 1.*KeyError: 'device'"):
            runner.child(side, {"short": 1})

    def test_a_peer_that_is_not_there_is_left_out_and_said(self) -> None:
        runner = Runner(case="overhead", options=Options())
        absent = Side(name="rival", run=dict, peer="no_such_module_anywhere")
        assert runner([absent], {}, rounds=1) == {}
        assert "rival was left out" in runner.notes[0]

    def test_idle_time_is_a_share(self) -> None:
        assert 0 <= harness.idle_share(0.05) <= 1

    def test_waiting_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(harness, "idle_share", lambda _: 0.0)
        harness.wait_until_idle(0.01)


class TestCommand:
    def test_without_a_case_it_lists_them(self) -> None:
        done = bench()
        assert done.returncode == 0
        assert all(f"\n  {case} " in done.stdout for case in [*CASES, "all"])

    def test_an_unknown_case_is_refused(self) -> None:
        done = bench("overheat")
        assert done.returncode == 2
        assert "'overheat'" in done.stderr
        assert "overhead" in done.stderr

    def test_gpu_refuses_without_a_device(self) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device here")
        done = bench("gpu", "--smoke")
        assert done.returncode == 1
        assert "no CUDA device" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
class TestCases:
    def test_overhead_measures_the_same_work(self) -> None:
        """The last losses of the raw loop and of graftwork are one number, and on a terminal the bar is drawn."""
        sides = ("raw", "raw, not fused", "graftwork", "graftwork, bar", "raw, permuted index", "graftwork, columns")
        found = smoke("overhead", *sides)
        assert set(found["sides"]) == set(sides)
        told = figures(found)
        assert told["last loss, raw and 2 of graftwork: gap"]["value"] == 0
        assert told["times the bar was drawn, at least"]["value"] >= 1
        assert told["3 metrics, display: over raw"]["target"] == 10.0
        assert told["column loader: over raw, permuted index"]["target"] == 10.0

    def test_validation_measures_the_same_work(self) -> None:
        told = figures(smoke("overhead", "raw, validation", "graftwork, validation"))
        assert told["last loss, raw, validation and 1 of graftwork: gap"]["value"] < 1e-6

    @pytest.mark.long
    def test_imports_find_the_plugins_and_nothing_heavy(self) -> None:
        found = smoke("imports")
        told = figures(found)
        assert told["fake plugins listed"]["value"] == 50
        assert told["heavy modules loaded by import graftwork"]["value"] == 0
        assert found["sides"]["import torch"]["median"] > found["sides"]["import graftwork"]["median"]

    @pytest.mark.long
    def test_checkpoint_saves_what_it_says(self) -> None:
        found = smoke("checkpoint")
        assert set(found["sides"]) == {
            "write and flush",
            "training stands still",
            "until the file is whole",
            "sha256 alone",
        }

    @pytest.mark.long
    def test_artifact_predicts_the_same_both_ways(self) -> None:
        found = smoke("artifact")
        told = figures(found)
        assert told["probabilities: largest difference"]["value"] < 1e-5
        assert found["sides"]["load_learner"]["median"] > found["sides"]["safetensors"]["median"]
        size = float(found["notes"][0].split("the file has ")[1].split(" MB")[0])
        assert 44 < size < 49

    @pytest.mark.long
    def test_vision_compares_loops_over_photos(self) -> None:
        found = smoke("vision", "hand-tuned", "graftwork")
        assert set(found["sides"]) == {"hand-tuned", "graftwork"}
        assert figures(found)["graftwork / hand-tuned"]["target"] == 0.98
        assert any(note.startswith("graftwork ran on cpu") for note in found["notes"])

    @pytest.mark.long
    def test_loader_measures_every_kind_of_worker(self) -> None:
        found = smoke("loader", "none", "2 threads", "2 processes")
        assert set(found["sides"]) == {"none", "2 threads", "2 processes"}
        assert any(note.startswith("alone: the fastest is") for note in found["notes"])

    @pytest.mark.long
    def test_decoding(self) -> None:
        found = smoke("decode")
        assert set(found["sides"]) == {
            f"{kind}{what}: {side}"
            for kind in ("small", "500x375")
            for what in ("", ", CPU")
            for side in ("graftwork", "Pillow, 2 threads")
        }
        assert all(side["median"] > 0 for side in found["sides"].values())

    @pytest.mark.long
    def test_fine_tuning_says_what_the_trunk_is_worth(self) -> None:
        told = {line["what"]: line["value"] for line in smoke("finetune")["figures"]}
        assert set(told) == {"25 a class: gain", "25 a class: spread over seeds (quartiles)"}
        assert -1 < told["25 a class: gain"] < 1

    @pytest.mark.long
    def test_quality_reports_the_model_beside_its_baselines(self) -> None:
        found = smoke("quality")
        told = figures(found)["small-cnn, digits, 1 epoch"]
        assert told["met"] is True
        assert {"  core/majority", "  vision/nearest-mean", "  vision/grey-logistic"} < set(found["sides"])
