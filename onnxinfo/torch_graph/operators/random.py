"""Random operators are refused: every engine draws different numbers, so no result could be verified."""

from __future__ import annotations

from ..nodes import Converted, Graph, Node
from .table import converter


@converter("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
def _refused(node: Node, graph: Graph) -> Converted:
    raise ValueError("it draws random numbers, in every engine others; export the model for inference")
