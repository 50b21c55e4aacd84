"""Look up the converter for an operator in the table, by the opset version that a model imports."""

from __future__ import annotations

from onnx import defs

from ..graph import schemas
from . import operators


def own(op_type: str, domain: str, version: int) -> operators.Converter | None:
    """Return an operator's converter in the table.

    Parameters
    ----------
    op_type, domain
        The operator; the domain of ONNX's standard operators is "".
    version
        Opset version that the model imports for the domain.

    Returns
    -------
    callable or None
        None if the table has none, or the operator was introduced after that version.
    """
    since = _since(op_type, domain, version)
    return next(
        (entry.converter for entry in reversed(operators.TABLE.get((domain, op_type), ())) if since in entry.versions),
        None,
    )


def _since(op_type: str, domain: str, version: int) -> int | None:
    """Return the version that introduced the operator as it is; without a schema, every version counts as new."""
    schemas.register()
    try:
        return defs.get_schema(op_type, version, domain).since_version
    except defs.SchemaError:
        return None if defs.has(op_type, domain) else version
