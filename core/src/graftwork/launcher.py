"""launch: several local processes from within a program or a notebook, as torchrun starts them from the shell."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

from graftwork.errors import OptionError, TrainingError

__all__ = ["launch"]


def launch(function: Callable[..., Any], *args: Any, processes: int = 2) -> None:
    """Call `function(*args)` in several processes of this machine at once, and wait until all have returned.

    Each makes its own Learner; what they train they train together, and the first one writes. What is to stay is
    written by the function (`learn.export(…)`): nothing is returned. A function of a module is sent to fresh
    processes; one defined in a notebook or in a program that came by
    standard input to copies of this one, which is possible as long as no GPU has been used here.

    Raises:
        OptionError: fewer than one process, or the function cannot be had in another process.
        TrainingError: a process failed; the others are ended.
    """
    if processes < 1:
        raise OptionError(f"processes={processes} must be at least 1")
    if processes == 1:
        function(*args)
        return
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    start = _start_method(function)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        start_processes(_run, args=(function, args, processes, port, start), nprocs=processes, start_method=start)
    except ProcessRaisedException as error:
        raise TrainingError(f"process {error.error_index} of {processes} failed: {error}") from error
    except ProcessExitedException as error:
        raise TrainingError(f"process {error.error_index} of {processes} ended by itself: {error}") from error


def _start_method(function: Callable[..., Any]) -> str:
    """Return "spawn" where a fresh process can import the function, else "fork"."""
    program = vars(sys.modules["__main__"]).get("__file__", "<notebook>")
    if function.__module__ != "__main__" or os.path.exists(program):  # noqa: PTH110 - a program of standard input is "<stdin>"
        return "spawn"
    if not hasattr(os, "fork"):
        raise OptionError(f"{function.__qualname__} is defined in a notebook; put it into a module and import it")
    import torch

    if torch.cuda.is_initialized():
        raise OptionError(
            f"a GPU has been used in this process, so that it cannot be copied; call launch first, or put "
            f"{function.__qualname__} into a module and import it"
        )
    return "fork"


def _run(rank: int, function: Callable[..., Any], args: tuple[Any, ...], world: int, port: int, start: str) -> None:
    said = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in said.items()})
    import torch

    # A copy of a process has none of its threads, and OpenMP waits for them for ever; fresh ones share the cores.
    torch.set_num_threads(1 if start == "fork" else max(1, (os.cpu_count() or 1) // world))
    function(*args)
