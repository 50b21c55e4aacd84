"""Read models from a file or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxinfo import Model


def read_source(model: str) -> str | bytes:
    """Return the path of a model, or the bytes on standard input for ``-``."""
    return sys.stdin.buffer.read() if model == "-" else model


def opened(model: Model, *, set: Sequence[str] = (), batch_axis: Sequence[str] = (), dequantize: bool = False) -> Model:
    """Open a model as an analysis does with these settings, but in its own precision; without any, as it is.

    Parameters
    ----------
    model
        A loaded model.
    set, batch_axis, dequantize
        See :class:`onnxinfo.InputConfig`.
    """
    if not (set or batch_axis or dequantize):
        return model
    from onnxinfo import InputConfig
    from onnxinfo.workflows.open_model import open_model

    chosen = InputConfig(set=set, batch_axis=batch_axis, dequantize=dequantize, keep_precision=True)
    return open_model(model, chosen)


def load_for(model: str, output: str, force: bool, reads: Sequence[object] = ()) -> Model:
    """Load a model to derive another one from, after checking that the result may be written.

    Parameters
    ----------
    model
        A file, or ``-`` for standard input.
    output
        The model to be written, or ``-`` for standard output.
    force
        See :func:`onnxinfo.save`.
    reads
        Other files that the command reads.
    """
    from onnxinfo import ModelError, load
    from onnxinfo.kinds import ONNX
    from onnxinfo.outputs import STANDARD_OUTPUT, claim, spare

    if output == "-":
        spare(STANDARD_OUTPUT, [model, *reads])
    else:
        claim(output, ONNX, inputs=[model, *reads], force=force, failure=ModelError)
    return load(read_source(model))
