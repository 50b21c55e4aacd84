"""From an ONNX graph to a differentiable torch graph, verified against ONNX Runtime."""
