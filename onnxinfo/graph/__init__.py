"""The ONNX side: load a model, list its layers, operate on its graph."""
