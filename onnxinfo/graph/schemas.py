"""Register operators that ONNX Runtime's optimizers write into the standard domain with ONNX's checker."""

from __future__ import annotations

from functools import cache
from threading import Lock

from onnx import defs
from onnx.shape_inference import InferenceContext

_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


_registering = Lock()


def register() -> None:
    """Add the schemas to ONNX's registry, once per process.

    LayerNormalization entered the standard in opset 17, SimplifiedLayerNormalization never did; both occur in models of
    any opset that were optimized by ONNX Runtime.
    """
    with _registering:
        _register()


@cache
def _register() -> None:
    for name in ("LayerNormalization", "SimplifiedLayerNormalization"):
        defs.register_schema(_normalization(name))


def _normalization(name: str) -> defs.OpSchema:
    parameter, optional = defs.OpSchema.FormalParameter, defs.OpSchema.FormalParameterOption.Optional
    integer, real = defs.OpSchema.AttrType.INT, defs.OpSchema.AttrType.FLOAT
    schema = defs.OpSchema(
        name,
        "",
        1,
        doc="As ONNX Runtime defines it.",
        inputs=[parameter("X", "T"), parameter("Scale", "T"), parameter("B", "T", param_option=optional)],
        outputs=[parameter("Y", "T"), *(parameter(n, "U", param_option=optional) for n in ("Mean", "InvStdDev"))],
        type_constraints=[("T", _FLOATS, "Type of the values."), ("U", _FLOATS, "Type of the statistics.")],
        attributes=[
            defs.OpSchema.Attribute(attribute, type_, required=False)
            for attribute, type_ in (("axis", integer), ("epsilon", real), ("stash_type", integer))
        ],
    )
    schema.set_type_and_shape_inference_function(_same_as_first_input)
    return schema


def _same_as_first_input(context: InferenceContext) -> None:
    context.set_output_type(0, context.get_input_type(0))
