"""Read models from a file or from standard input."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxinfo import Model


def read_source(model: str) -> str | bytes:
    """Return the path of a model, or the bytes on standard input for ``-``."""
    return sys.stdin.buffer.read() if model == "-" else model


def load_for(model: str, output: str, force: bool) -> Model:
    """Load a model to derive another one from, after checking that the result may be written.

    Parameters
    ----------
    model
        A file, or ``-`` for standard input.
    output
        The model to be written, or ``-`` for standard output.
    force
        See :func:`onnxinfo.save`.
    """
    from onnxinfo import ModelError, load
    from onnxinfo.kinds import ONNX
    from onnxinfo.outputs import STANDARD_OUTPUT, claim, spare

    if output == "-":
        spare(STANDARD_OUTPUT, [model])
    else:
        claim(output, ONNX, inputs=[model], force=force, failure=ModelError)
    return load(read_source(model))
