"""Processes for tests, forked from a server that has imported what they need: importing torch takes seconds."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

#: What processes of the tests import, directly or when they receive a function of a test module.
PRELOADED = [
    *("pytest", "archive_fakes", "fuzzing", "PIL.Image", "torch.fx.experimental.symbolic_shapes"),
    "matplotlib.backends.backend_agg",
    *("onnxinfo.workflows.analyze", "onnxinfo.engines.local", "onnxinfo.models", "onnxinfo.cli", "frozen"),
]


@functools.cache
def context() -> ForkServerContext:
    """Return the context, with the server started."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    # Python up to 3.11.8 does not pass the search path on to the server, and ignores what it cannot preload.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return found


def call_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a test module in a process of its own, whose global state it may change."""
    with ProcessPoolExecutor(1, mp_context=context()) as pool:
        return pool.submit(function, *arguments).result()


class Command:
    """The command line in a process of its own.

    Parameters
    ----------
    arguments
        Its arguments.
    folder
        Current folder.
    environment
        Environment variables; default: those of the server.
    terminal
        Name of the terminal that it reads from and prints to; default: files, which :meth:`wait` returns.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        terminal: str = "",
    ) -> None:
        self._printed = tempfile.TemporaryDirectory()
        streams = {name: terminal or str(self._file(name)) for name in ("out", "err")} | {"in": terminal or os.devnull}
        ready = context().Event()
        line = ["onnxinfo", *map(str, arguments)]
        self.process = context().Process(target=_command, args=(line, folder, environment, streams, ready))
        self.process.start()
        ready.wait(60)

    def _file(self, name: str) -> Path:
        return Path(self._printed.name) / name

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid or 0, number)

    def wait(self) -> tuple[int | None, str, str]:
        """Return the exit code, standard output and standard error; the latter are empty in a terminal."""
        self.process.join()
        out, err = (file.read_text() if file.exists() else "" for file in map(self._file, ("out", "err")))
        return self.process.exitcode, out, err


def _command(
    line: list[str], folder: Path, environment: dict[str, str] | None, streams: dict[str, str], ready: Any
) -> None:
    import torch

    from onnxinfo.cli import main

    for number, name in enumerate(("in", "out", "err")):
        os.dup2(os.open(streams[name], os.O_RDWR | os.O_CREAT), number)
    # The server's streams remember that they were files, in which one may seek.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    ready.set()
    torch.set_num_threads(1)
    # Background tests may be started with the signal ignored, which is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    os.chdir(folder)
    sys.argv = line
    main()
