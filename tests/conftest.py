"""Settings that must precede all imports, and fixtures that save processes."""

import os
from types import SimpleNamespace

import pytest
from processes import context

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each test process has one core; more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def quick_workers(monkeypatch):
    """Fork the workers of ``workers=2`` from a server that has imported torch; users' workers import it themselves."""
    started = SimpleNamespace(get_context=lambda method: context())
    monkeypatch.setattr("onnxinfo.engines.processes.multiprocessing", started)
