"""Processes for tests, forked from a server that has imported what they need: importing torch takes seconds."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

#: What processes of the tests import, directly or when they receive a function of a test module.
PRELOADED = ["pytest", "archive_fakes", "fuzzing", "onnxinfo.workflows.analyze", "onnxinfo.models", "onnxinfo.config"]


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
