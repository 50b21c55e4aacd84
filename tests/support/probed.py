"""Layers that tests define as modules, probed as by an analysis."""

import torch

from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.probe import LayerProbe


def probed(module, x, seed=0, batch_size=4096):
    """Probe and linearization of a module's output at samples (S, n), whose units have size 1."""
    network, rows, unit = Network(torch.fx.symbolic_trace(module)), torch.arange(len(x)), torch.ones(x.shape[1])
    streams = [torch.Generator().manual_seed(seed + i) for i in range(3)]
    (start,) = linearize(network, x, unit, rows, streams[0])
    return LayerProbe(network.part([0]), x, unit, rows, *streams[1:], batch_size), start
