"""Settings that must precede all imports."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each test process has one core; more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
