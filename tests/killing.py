"""Train tasks, kill them again and again at random moments and inside saving, resume them, and say how often.

Run as a program of its own, with one thread, so that forking is safe: what is imported once serves every child. Its
last line is JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graftwork.errors import UserError
from graftwork.job import resume, train
from graftwork.plugins import get_host
from graftwork.task import JobOptions

MOST_CHILDREN = 200


class Victim:
    """Be one way to train: a task, its source and options."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.settings, self.folder, self.log = settings, folder, folder / "log.txt"
        self.job = JobOptions(**settings["job"])

    def begin(self, run: Path) -> None:
        task = get_host().tasks.get(self.settings["task"]).from_config(self.settings["options"])
        train(task, Path(self.settings["source"]), self.job, run, lambda _: None, to_stderr=True)

    def go_on(self, run: Path) -> None:
        """Do what a person would: resume a run, or begin it again if nothing is there to resume."""
        if (run / "config.json").exists():
            resume(run, lambda _: None, to_stderr=True)
            return
        for left in run.glob(".*"):
            left.unlink()
        self.begin(run)

    def child(self, run: Path, before: Callable[[], None]) -> int:
        """Fork a child that goes on with a run."""
        assert threading.active_count() == 1, threading.enumerate()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            before()
            self.go_on(run)
            status = 0
        except UserError as error:
            os.write(2, f"{error}\n".encode())
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)


def die_at(call: int) -> Callable[[], None]:
    """Have the process kill itself at its nth flush or rename, where a file may have been written in part."""
    left = [call]

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if isinstance(args[0], int) and os.fstat(args[0]).st_size > 1000:
                    os.truncate(args[0], os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return instead

    def before() -> None:
        os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)

    return before


def ended(pid: int, seconds: float) -> int | None:
    """Wait for a child at most so long; return how it ended, None if it has not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def killed_until_done(victim: Victim, run: Path, seconds: float, dice: random.Random, *, sparing: bool) -> int:
    """Kill a run's processes until one comes to its end; return how many were killed."""
    for kills in range(MOST_CHILDREN):
        inside = not sparing and dice.random() < 0.5
        pid = victim.child(run, die_at(dice.randint(4, 16)) if inside else lambda: None)
        status = ended(pid, 60 if inside or sparing else dice.uniform(0, seconds))
        if status is None:
            os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return kills
        if status != -signal.SIGKILL:
            raise RuntimeError(f"a child ended with {status}:\n{victim.log.read_text()[-3000:]}")
    raise RuntimeError(f"{MOST_CHILDREN} children and no end")


def kill(settings: dict[str, Any], folder: Path) -> dict[str, int]:
    """Train into `folder/whole` undisturbed, and into `folder/run-N` with many kills; return how many each had."""
    victim, dice = Victim(settings, folder), random.Random(settings["seed"])
    victim.begin(folder / "warm")  # imports, kernels and fonts are there from now on
    began = time.monotonic()
    killed_until_done(victim, folder / "whole", 0, dice, sparing=True)
    seconds = time.monotonic() - began
    runs: dict[str, int] = {}
    while sum(runs.values()) < settings["kills"]:
        name = f"run-{len(runs)}"
        runs[name] = killed_until_done(victim, folder / name, seconds, dice, sparing=False)
    return runs


def main(cases: dict[str, Any], folder: Path) -> dict[str, dict[str, int]]:
    """Kill all cases, each in a folder of its own."""
    import torch

    torch.set_num_threads(1)
    return {name: kill(settings, folder / name) for name, settings in cases.items()}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
