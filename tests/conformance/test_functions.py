"""Model-local functions against ONNX Runtime: attributes given in the call, omitted, passed on, and in bodies."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch

from onnxinfo.errors import ModelError
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


def test_a_default_that_a_call_would_lose_is_refused():
    functions = LOCAL + " outer <slope> (x) => (y) { y = local.act <alpha: float = @slope> (x) }\n" + LEAKY
    with pytest.raises(ModelError, match=r"function 'outer' leaves out attribute 'slope'.*'act'"):
        convert(model("{ y = local.outer (x) }", functions))


def test_the_model_given_stays_as_it_is():
    found = model(*CASES["slope left out"])
    before = found.SerializeToString(deterministic=True)
    convert(found)
    assert found.SerializeToString(deterministic=True) == before
