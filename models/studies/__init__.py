"""The paper's experiments, repeated with onnxinfo at a size that a laptop can train."""
