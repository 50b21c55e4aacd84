"""Train a PaddlePaddle network on digits and export it through paddle2onnx.

Run ``python -m models.export_paddle`` in the repository, in a separate environment (see ``README.md``): paddle2onnx
requires an older onnx than onnxinfo does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import paddle
import paddle2onnx
from paddle import nn

from .datasets import SEED, Array, digits
from .export import report_accuracy, save_model

OPSET = 14
EPOCHS = 25
BATCH = 64


def network() -> nn.Sequential:
    """Return an untrained CNN: (N, 1, 8, 8) in [0, 1] to ten logits."""
    return nn.Sequential(
        nn.Conv2D(1, 16, 3, padding=1),
        nn.BatchNorm2D(16),
        nn.Hardswish(),
        nn.Conv2D(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2D(32),
        nn.Hardswish(),
        nn.Conv2D(32, 32, 3, padding=1, groups=4),
        nn.BatchNorm2D(32),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def train(model: nn.Layer, x: Array, y: Array) -> None:
    """Train with Adam and a cosine learning rate; leave the model in evaluation mode."""
    steps = len(x) // BATCH
    rate = paddle.optimizer.lr.CosineAnnealingDecay(1e-2, EPOCHS * steps)
    optimizer = paddle.optimizer.Adam(rate, parameters=model.parameters())
    rng = np.random.default_rng(SEED)
    model.train()
    for _ in range(EPOCHS):
        for batch in rng.permutation(len(x))[: steps * BATCH].reshape(steps, BATCH):
            loss = nn.functional.cross_entropy(model(paddle.to_tensor(x[batch])), paddle.to_tensor(y[batch]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            rate.step()
    model.eval()


def main() -> None:
    """Train, export and report."""
    paddle.seed(SEED)
    data = digits()
    x_train, x_test = (images[:, None].astype(np.float32) / 255 for images in (data.x_train, data.x_test))
    model = network()
    train(model, x_train, data.y_train)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "digits_cnn"
        signature = [paddle.static.InputSpec([None, 1, 8, 8], "float32", "image")]
        paddle.jit.save(model, str(program), input_spec=signature)
        # paddle.onnx.export would let Polygraphy fold constants, which installs packages at run time.
        paddle2onnx.export(
            f"{program}.json",
            f"{program}.pdiparams",
            f"{program}.onnx",
            opset_version=OPSET,
            optimize_tool="none",
        )
        proto = onnx.load(f"{program}.onnx")
    path = save_model(proto, "paddle-digits-cnn.onnx")
    report_accuracy(path, {"image": x_test}, data.y_test, proto.graph.output[0].name)


if __name__ == "__main__":
    main()
