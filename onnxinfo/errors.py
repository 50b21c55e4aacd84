"""The errors a user can meet: one line each, saying what was given, what was expected and what to do.

Messages name settings as keywords with a value, ``labels=...`` or ``overwrite=True``; the command line shows them as
its options.
"""


class OnnxinfoError(Exception):
    """Base of every error onnxinfo raises on purpose: the work failed (exit code 1).

    The message is one line: what was given, what was expected, what to do.
    """

    exit_code = 1


class UsageError(OnnxinfoError, ValueError):
    """The request is invalid: an unknown layer, a taken run name, an absent device (exit code 2)."""

    exit_code = 2


class _UnknownNameError(UsageError, KeyError):
    # KeyError shows its argument in quotes.
    __str__ = Exception.__str__


class UnknownRunError(_UnknownNameError):
    """There is no run of that name."""


class UnknownLayerError(_UnknownNameError):
    """No layer has that name, or matches that pattern."""


class ModelError(OnnxinfoError):
    """The ONNX model cannot be read, is invalid, or lacks what the analysis needs."""


class ConversionError(OnnxinfoError):
    """A node of the model cannot become part of a differentiable torch graph."""


class VerificationError(OnnxinfoError):
    """The torch graph computes something else than ONNX Runtime."""


class InputError(OnnxinfoError):
    """The samples cannot be read or do not fit the model."""


class ArchiveError(OnnxinfoError):
    """The HDF5 archive cannot be read or written."""


class ResourceError(OnnxinfoError):
    """The device has too little memory for a single sample."""
