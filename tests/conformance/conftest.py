"""ONNX's backend cases, kept between runs: to generate them takes most of the time that collecting all tests does."""

import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test import loader


def pytest_configure(config):
    cache = getattr(config, "cache", None)  # None under -p no:cacheprovider
    if cache is None:
        return
    generate = loader.load_node_model_tests
    file = Path(cache.mkdir("onnx-cases")) / f"onnx-{onnx.__version__}-numpy-{np.__version__}.pickle"
    loader.load_node_model_tests = lambda: kept(file, generate)


def kept(file, generate):
    """Return what a file keeps, or what is generated, which the file keeps then."""
    try:
        return pickle.loads(file.read_bytes())
    except FileNotFoundError:
        cases = generate()
    # Other test processes may do the same: each moves a whole file into place.
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
        part.write(pickle.dumps(cases))
    os.replace(part.name, file)
    return cases
