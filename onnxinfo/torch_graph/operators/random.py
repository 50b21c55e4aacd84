"""Random operators are refused: every engine draws other numbers, so no result could be verified."""

from __future__ import annotations

from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OperationConverterResult

from .table import converter


@converter("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
def _refused(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    raise ValueError("it draws random numbers, in every engine others; export the model for inference")
