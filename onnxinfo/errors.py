"""The errors a user can meet: one line each, saying what was given, what was expected and what to do."""


class OnnxinfoError(Exception):
    """Base of every error onnxinfo raises on purpose: the work failed (exit code 1).

    The message is one line: what was given, what was expected, what to do.
    """

    exit_code = 1


class UsageError(OnnxinfoError):
    """What was asked for cannot be meant: an unknown layer, a taken run name, an absent device (exit code 2)."""

    exit_code = 2


class UnknownRunError(UsageError, KeyError):
    """An archive has no run of that name."""

    # KeyError shows its argument in quotes.
    __str__ = Exception.__str__


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
