"""What has to be settled before anything is imported."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each of several test processes has a core of its own; threads beyond that would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
