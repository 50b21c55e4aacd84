"""One network from the sweep over torchvision's architectures, from exporter to SID; the rest is in benchmarks/."""

import pytest

# In this order: torchvision takes seconds to import.
pytest.importorskip("onnxscript")
pytest.importorskip("torchvision")
import architectures


@pytest.mark.slow
@pytest.mark.parametrize("exporter", architectures.EXPORTERS)
def test_a_network_comes_through(exporter, tmp_path):
    record = architectures.Record("squeezenet1_1", "classification", exporter)
    architectures.trial(record, tmp_path)
    assert record.found["stage"] == "done"
    assert record.found["compared"] > 20
    assert len(record.found["sid"]) == 2
    assert "1 of the 1 (100.0%) come through" in architectures.page([record.found])
