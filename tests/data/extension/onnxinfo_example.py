"""One extension of each kind, registered through another package's entry points."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnxinfo.analysis.blocks import Cells, Measure
from onnxinfo.archive.export import Exporter
from onnxinfo.archive.format import Metric
from onnxinfo.engines.serial import SerialExecutor
from onnxinfo.inputs.rows import MemoryRows
from onnxinfo.kinds import Kind
from onnxinfo.torch_graph.operators import operator


class Energy(Measure):
    """Mean square of a layer's feature."""

    metric = Metric("energy", "mean square of the feature", "1", fields=(), has_map=False)

    def cells(self, batch):
        """Compute a batch's cells."""
        feature = batch.job.network.part([batch.layer])(batch.x, batch.rows)[0].detach()
        value = feature.double().flatten(1).square().mean(1)
        return Cells({"value": value, "stderr": 0 * value, "converged": value.isfinite()})


def draw_name(archives, output, *, force=False):
    """Draw the name of an archive, if text is a drawing."""
    Path(output).write_text(Path(archives).stem)
    return Path(output)


def open_table(path, key, kinds):
    """Open a table of numbers with one sample per line."""
    return MemoryRows(np.loadtxt(path, dtype="f4", ndmin=2), path.stem)


@contextmanager
def open_here(execution, worker):
    """Compute in this process."""
    yield SerialExecutor(worker)


TO_LIST = Exporter(Kind("a list", lambda content: False), lambda run, part, per: part.write_text(run.layers[0].name))


@operator(domain="example")
def Twice(X):
    """Double a tensor."""
    return 2 * X
