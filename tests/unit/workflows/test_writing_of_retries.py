"""A task with the usual passes does not write the cells that another one computes with more."""

from types import SimpleNamespace

import numpy as np
import pytest

from onnxinfo.analysis.tasks import Column, Measuring
from onnxinfo.workflows.compute import RETRY_PASSES, Analysis


@pytest.mark.parametrize(("passes", "expected"), [(1, [3, 5]), (RETRY_PASSES, [4])])
def test_each_task_writes_its_own_cells(passes, expected):
    written = []
    analysis = object.__new__(Analysis)
    analysis.writer = SimpleNamespace(
        write=lambda name, layer, samples, values, map: written.append((samples, values["value"].tolist()))
    )
    analysis.job = SimpleNamespace(layers=[SimpleNamespace(name="y")])
    analysis.report = lambda progress: None
    analysis._forecast = SimpleNamespace(cells=lambda open_cells, done: 0.0)
    analysis._finished = {"sid": np.zeros((1, 6), bool)}
    analysis._retried = {"sid": np.array([[False, False, False, False, True, False]])}
    column = Column({"value": np.array([30.0, 40.0, 50.0])}, None, 0.0)
    analysis._write("sid", Measuring(0, [3, 4, 5], ["sid"], None, None, passes), [3, 4, 5], column)
    assert written == [(expected, [10.0 * sample for sample in expected])]
    assert np.flatnonzero(analysis._finished["sid"]).tolist() == expected
