"""The ONNX side: load a model, list its layers, edit its graph."""
