"""Model-local functions against ONNX Runtime: attributes given in the call, omitted, passed on, and in bodies."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch

from onnxinfo.torch_graph.convert import convert

HEAD = '<ir_version: 10, opset_import: ["" : 20, "local" : 1]>\n'
OPSET = '<domain: "local", opset_import: ["" : 20]>'
LOCAL = '<domain: "local", opset_import: ["" : 20, "local" : 1]>'
LEAKY = OPSET + " act <alpha: float = 0.3> (x) => (y) { y = LeakyRelu <alpha: float = @alpha> (x) }"
SOFTMAX = OPSET + " soft <axis: int = 0> (x) => (y) { y = Softmax <axis: int = @axis> (x) }"
SCALE = OPSET + " scale <by: float = 2.5> (x) => (y) { c = Constant <value_float: float = @by> () y = Mul (x, c) }"
TRANSPOSE = OPSET + " flip <perm: ints = [1, 0]> (x) => (y) { y = Transpose <perm: ints = @perm> (x) }"
REQUIRED = OPSET + " elu <alpha> (x) => (y) { y = Elu <alpha: float = @alpha> (x) }"
BOTH = OPSET + (
    " norm <by, axis: int = -1> (x) => (y)"
    " { c = Constant <value_float: float = @by> () s = Softmax <axis: int = @axis> (x) y = Mul (s, c) }"
)
OUTER = LOCAL + " outer <slope: float = 0.6> (x) => (y) { y = local.act <alpha: float = @slope> (x) }\n" + LEAKY
INNER_DEFAULT = LOCAL + " outer (x) => (y) { y = local.act (x) }\n" + LEAKY
DEFAULT_OF_CALLEE = LOCAL + " outer <slope> (x) => (y) { y = local.act <alpha: float = @slope> (x) }\n" + LEAKY
TWO_CALLEES = (
    LOCAL
    + " outer <slope> (x) => (y)"
    + " { a = local.middle <slope: float = @slope> (x) b = Elu <alpha: float = @slope> (x) y = Add (a, b) }\n"
    + LOCAL
    + " middle <slope> (x) => (y) { y = local.act <alpha: float = @slope> (x) }\n"
    + LEAKY
)
LIST = (
    OPSET + " bias <by: floats = [1.0, -2.0, 3.0, 0.5]> (x) => (y)"
    " { c = Constant <value_floats: floats = @by> () y = Add (x, c) }"
)
STRING = OPSET + ' gelu <how: string = "tanh"> (x) => (y) { y = Gelu <approximate: string = @how> (x) }'
OLDER = (
    '<domain: "local", opset_import: ["" : 13]> soft <axis: int = 0> (x) => (y) { y = Softmax <axis: int = @axis> (x) }'
)
ABSENT_INPUT = OPSET + (
    " clip <low: float = -1.0> (x, high) => (y) { l = Constant <value_float: float = @low> () y = Clip (x, l, high) }"
)
IN_A_BODY = OPSET + (
    " pick <slope: float = 0.4> (x) => (y) { s = ReduceSum <keepdims: int = 0> (x)"
    " zero = Constant <value_float: float = 0.0> () c = Less (s, zero)"
    " y = If (c) <then_branch = a () => (float[N,4] t) { t = LeakyRelu <alpha: float = @slope> (x) },"
    " else_branch = b () => (float[N,4] e) { e = Elu <alpha: float = @slope> (x) }> }"
)
BRANCHES = (
    "{ s = ReduceSum <keepdims: int = 0> (x) zero = Constant <value_float: float = 0.0> () c = Less (s, zero)"
    " y = If (c) <then_branch = a () => (float[N,4] t) { t = local.act (x) },"
    " else_branch = b () => (float[N,4] e) { e = local.act <alpha: float = 0.9> (x) }> }"
)


def model(body: str, functions: str, output: str = "float[N,4] y") -> onnx.ModelProto:
    found = onnx.parser.parse_model(f"{HEAD}g (float[N,4] x) => ({output}) {body}\n{functions}")
    onnx.checker.check_model(found)
    return found


CASES = {
    "slope left out": ("{ y = local.act (x) }", LEAKY),
    "slope given": ("{ y = local.act <alpha: float = 0.8> (x) }", LEAKY),
    "both": ("{ a = local.act (x) b = local.act <alpha: float = 0.7> (x) y = Add (a, b) }", LEAKY),
    "axis left out": ("{ y = local.soft (x) }", SOFTMAX),
    "axis given": ("{ y = local.soft <axis: int = 1> (x) }", SOFTMAX),
    "constant left out": ("{ y = local.scale (x) }", SCALE),
    "constant given": ("{ y = local.scale <by: float = -1.0> (x) }", SCALE),
    "list left out": ("{ t = local.flip (x) y = Transpose <perm: ints = [1, 0]> (t) }", TRANSPOSE),
    "list given": ("{ y = local.flip <perm: ints = [0, 1]> (x) }", TRANSPOSE),
    "without default": ("{ y = local.elu <alpha: float = 0.4> (x) }", REQUIRED),
    "one of two": ("{ y = local.norm <by: float = 3.0> (x) }", BOTH),
    "handed on, left out": ("{ y = local.outer (x) }", OUTER),
    "handed on, given": ("{ y = local.outer <slope: float = 0.1> (x) }", OUTER),
    "default of the inner one": ("{ y = local.outer (x) }", INNER_DEFAULT),
    "in branches": (BRANCHES, LEAKY),
    "handed on without a value": ("{ y = local.outer (x) }", DEFAULT_OF_CALLEE),
    "handed on with and without": (
        "{ a = local.outer (x) b = local.outer <slope: float = 0.7> (x) y = Add (a, b) }",
        DEFAULT_OF_CALLEE,
    ),
    "handed on twice without a value": ("{ y = local.outer (x) }", TWO_CALLEES),
    "handed on twice": ("{ y = local.outer <slope: float = 0.7> (x) }", TWO_CALLEES),
    "list of floats left out": ("{ y = local.bias (x) }", LIST),
    "string left out": ("{ y = local.gelu (x) }", STRING),
    "string given": ('{ y = local.gelu <how: string = "none"> (x) }', STRING),
    "older operators": ("{ y = local.soft (x) }", OLDER),
    "absent input": ("{ y = local.clip (x, ) }", ABSENT_INPUT),
    "in a body": ("{ y = local.pick (x) }", IN_A_BODY),
}


@pytest.mark.parametrize("name", CASES)
def test_functions_compute_what_onnx_runtime_computes(name):
    found = model(*CASES[name])
    for sign in (-1, 1):
        x = np.linspace(-2, 2.5, 12, dtype=np.float32).reshape(3, 4) + 0.3 * sign
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        (expected,) = onnxruntime.InferenceSession(found.SerializeToString(), options).run(None, {"x": x})
        (y,) = convert(found)(torch.tensor(x))
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_the_model_given_stays_as_it_is():
    found = model(*CASES["slope left out"])
    before = found.SerializeToString(deterministic=True)
    convert(found)
    assert found.SerializeToString(deterministic=True) == before
