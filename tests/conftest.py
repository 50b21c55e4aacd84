"""Settings that must precede all imports, and fixtures that save processes."""

import gc
import os
import random
import signal
from types import SimpleNamespace

import pytest
from processes import context

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each test process has one core; more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored, which tests that press it would wait for in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Let no garbage collection look again at what all tests have imported, some million objects."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Extension modules that look for leaks at the end find none."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def unsynced():
    """Do not wait for the disk: the writer does so after every few cells, dozens of times for a small archive."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws, such as initial weights, does not depend on the tests before it in the same process."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def quick_workers(monkeypatch):
    """Fork the workers of ``workers=2`` from a server that has imported torch; users' workers import it themselves."""
    started = SimpleNamespace(get_context=lambda method: context())
    monkeypatch.setattr("onnxinfo.engines.processes.multiprocessing", started)


@pytest.fixture
def trusted_archives(monkeypatch):
    """Read archives without the processes that protect from hostile ones, which cost more than most tests."""

    def names(path, run):
        from onnxinfo.archive import dimensions

        return dimensions._read(str(path), run)

    monkeypatch.setattr("onnxinfo.archive.isolation.survives", lambda work: True)
    monkeypatch.setattr("onnxinfo.archive.validate.dimension_names", names)


@pytest.fixture(autouse=True)
def trust_by_folder(request):
    """Trust the archives of all tests but those of robustness."""
    if "robustness" not in request.path.parts:
        request.getfixturevalue("trusted_archives")
