"""Convert an ONNX graph to a differentiable torch graph, and verify it against ONNX Runtime."""
