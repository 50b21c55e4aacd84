"""Which converter of the table an operator has, by the opset version that a model imports."""

from __future__ import annotations

from onnx import defs

from ..graph import schemas
from . import operators


def own(op_type: str, domain: str, version: int) -> operators.Converter | None:
    """Return the table's converter of an operator.

    Parameters
    ----------
    op_type, domain
        The operator; the domain of ONNX's own is "".
    version
        Opset version that the model imports for the domain.

    Returns
    -------
    callable or None
        None where the table has none, or the operator came after that version.
    """
    since = _since(op_type, domain, version)
    return next(
        (entry.converter for entry in reversed(operators.TABLE.get((domain, op_type), ())) if since in entry.versions),
        None,
    )


def _since(op_type: str, domain: str, version: int) -> int | None:
    """Return the version that brought the operator as it is; without a schema every version stands for itself."""
    schemas.register()
    try:
        return defs.get_schema(op_type, version, domain).since_version
    except defs.SchemaError:
        return None if defs.has(op_type, domain) else version
