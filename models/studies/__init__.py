"""The paper's experiments, repeated with onnxinfo on networks small enough to train on a laptop."""
