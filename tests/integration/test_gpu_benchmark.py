"""The benchmark for GPU machines, at a small size on the CPU."""

from __future__ import annotations

import re

import gpu
import pytest
import torch
from gpu_networks import NETWORKS

SMALL = "--device cpu --size 32 --width 0.05 --images 1 --samples 2 --networks VGG-16 --seconds 0.001"


@pytest.mark.slow
def test_every_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(SMALL.split())
    tables = re.split(r"\n\(\w\) ", capsys.readouterr().out)
    rows = [[line.strip("| ").split(" | ") for line in table.splitlines() if line[:1] == "|"][2:] for table in tables]
    speed, whole, one_pass, precision = rows[1:]
    assert len(speed) == 2
    assert [row[1:4] for row in whole] == [["16", "1", "auto"]]
    assert [row[-1] for row in one_pass] == ["0"]
    assert [row[2] for row in precision] == ["float64", "float32", "bfloat16"]
    assert float(precision[1][4]) < 0.01


def test_networks_have_the_parameters_of_the_originals() -> None:
    counts = {}
    for name, build in NETWORKS.items():
        with torch.device("meta"):
            network = build(1.0)
            network(torch.zeros(1, 3, 224, 224))
        counts[name] = sum(parameter.numel() for parameter in network.parameters())
    assert counts == {"ResNet-20": 272_474, "ResNet-50": 25_557_032, "VGG-16": 138_357_544}
