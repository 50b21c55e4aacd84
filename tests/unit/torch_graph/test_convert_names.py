"""Names in a model are up to the exporter: every node is converted, whatever they are."""

from __future__ import annotations

import onnx
import torch

from onnxinfo import convert


def test_nodes_of_one_name_hide_no_other_node() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        names (float[N] x) => (float[N] y)
        {
            a = Exp(x)
            b = Neg(a)
            c = Tanh(b)
            y = Neg(c)
        }
    """)
    for node, name in zip(model.graph.node, ["same", "same_1", "same", "same_1"], strict=True):
        node.name = name
    x = torch.linspace(-1, 1, 5)
    torch.testing.assert_close(convert(model)(x)[0], -torch.tanh(-x.exp()))
