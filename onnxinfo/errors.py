"""User-facing errors. Each message is one line: what was given, what was expected, what to do.

Messages write settings as keywords with a value, ``labels=...`` or ``overwrite=True``; the command line renders them as
its options.
"""

from __future__ import annotations

from typing import Any


class OnnxinfoError(Exception):
    """Base class of all errors that onnxinfo raises deliberately (exit code 1).

    The message is one line: what was given, what was expected, what to do.

    Examples
    --------
    >>> try:
    ...     onnxinfo.load("digits.npz")
    ... except onnxinfo.OnnxinfoError as error:
    ...     type(error).__name__, error.exit_code
    ('ModelError', 1)
    """

    exit_code = 1


class UsageError(OnnxinfoError, ValueError):
    """The request is invalid: an unknown layer, a taken run name, an absent device (exit code 2).

    Examples
    --------
    >>> onnxinfo.load(3)
    Traceback (most recent call last):
    onnxinfo.errors.UsageError: a model is a path, bytes, a ModelProto, ... not int
    """

    exit_code = 2


class _UnknownNameError(UsageError, KeyError):
    # KeyError would show its argument in quotes.
    __str__ = Exception.__str__


class UnknownRunError(_UnknownNameError):
    """No run has this name."""


class UnknownLayerError(_UnknownNameError):
    """No layer has this name or matches this pattern."""


class ModelError(OnnxinfoError):
    """The ONNX model cannot be read, is invalid, or lacks what the analysis needs.

    Examples
    --------
    >>> onnxinfo.load(b"not a model")
    Traceback (most recent call last):
    onnxinfo.errors.ModelError: ...
    """


class ConversionError(OnnxinfoError):
    """A node of the model cannot become part of a differentiable torch graph.

    Examples
    --------
    >>> from onnx import helper
    >>> node = helper.make_node("Secret", ["x"], ["y"], domain="com.example")
    >>> x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    >>> opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    >>> model = helper.make_model(helper.make_graph([node], "secret", [x], [y]), opset_imports=opsets, ir_version=10)
    >>> onnxinfo.convert(model)
    Traceback (most recent call last):
    onnxinfo.errors.ConversionError: ...
    """


class VerificationError(OnnxinfoError):
    """The torch graph and ONNX Runtime compute different values.

    Examples
    --------
    >>> check = onnxinfo.check_model("digits-cnn.onnx")
    >>> if check.error:
    ...     raise onnxinfo.VerificationError(check.error)
    """


class InputError(OnnxinfoError):
    """The samples cannot be read or do not fit the model.

    Examples
    --------
    >>> onnxinfo.open_samples("digits.npz:pictures", shape=(1, 8, 8))
    Traceback (most recent call last):
    onnxinfo.errors.InputError: ...
    """


class ArchiveError(OnnxinfoError):
    """The HDF5 archive cannot be read or written.

    Examples
    --------
    >>> onnxinfo.open("digits.npz")
    Traceback (most recent call last):
    onnxinfo.errors.ArchiveError: ...
    """


class ResourceError(OnnxinfoError):
    """The device has too little memory for a single sample.

    Examples
    --------
    >>> try:
    ...     onnxinfo.analyze("digits-cnn.onnx", "digits.npz:images", "new.h5", layers=["logits"], limit=1)
    ... except onnxinfo.ResourceError:
    ...     print("too little memory for a single sample; choose other layers or another device")
    Result(...)
    """


class GateError(OnnxinfoError):
    """A comparison fails a condition that was given for it (exit code 3).

    Attributes
    ----------
    verdict
        The :class:`onnxinfo.Verdict`.

    Examples
    --------
    >>> verdict = onnxinfo.gate(["result.h5", "pruned.h5"], ["sid>+10"])
    >>> if not verdict.passed:
    ...     raise onnxinfo.GateError(verdict)
    """

    exit_code = 3

    def __init__(self, verdict: Any) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


class IncompleteError(GateError):
    """No condition of a comparison fails, and one is about what a run has not finished or lacks (exit code 5).

    Attributes
    ----------
    verdict
        The :class:`onnxinfo.Verdict`.

    Examples
    --------
    >>> verdict = onnxinfo.gate(["result.h5", "pruned.h5"], ["sid>+10"])
    >>> if verdict.incomplete:
    ...     raise onnxinfo.IncompleteError(verdict)
    """

    exit_code = 5


class UnprovenError(OnnxinfoError):
    """An analysis is complete, and fewer of its cells are proven than ``min_converged`` asks for (exit code 4).

    Attributes
    ----------
    result
        The :class:`onnxinfo.Result`; of :func:`onnxinfo.oneshot`, :func:`onnxinfo.coherency` and
        :func:`onnxinfo.robustness` what they return.

    Examples
    --------
    >>> try:
    ...     raise onnxinfo.UnprovenError("97.0% of the cells are proven", onnxinfo.Result(Path("a.h5"), "run"))
    ... except onnxinfo.OnnxinfoError as error:
    ...     error.exit_code, error.result.run
    (4, 'run')
    """

    exit_code = 4

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[UnprovenError], tuple[str, Any]]:
        return type(self), (str(self), self.result)
