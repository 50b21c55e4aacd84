"""Train a Flax network on digits and export it through jax2onnx.

Run ``python -m models.export_jax`` in the repository, with the extra ``models-jax`` installed.
"""

from __future__ import annotations

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from jax2onnx import to_onnx

from .datasets import SEED, Array, digits
from .export import report_accuracy, save_model

OPSET = 21
EPOCHS = 30
BATCH = 64


class Network(nnx.Module):
    """A CNN with group normalization and GELU: (N, 8, 8, 1) in [0, 1], channels last, to ten logits.

    Parameters
    ----------
    rngs
        Random number generators for the initial weights.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(16, num_groups=4, rngs=rngs)
        self.down = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.last = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits."""
        x = nnx.gelu(self.norm(self.stem(x)))
        x = nnx.gelu(self.down(x))
        x = x + nnx.gelu(self.last(x))
        return self.head(jnp.mean(x, axis=(1, 2)))


@nnx.jit
def _step(model: Network, optimizer: nnx.Optimizer, x: Array, y: Array) -> None:
    def loss(network: Network) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def train(model: Network, x: Array, y: Array) -> None:
    """Train with AdamW and a one-cycle learning rate."""
    steps = len(x) // BATCH
    rate = optax.cosine_onecycle_schedule(EPOCHS * steps, 1e-2)
    optimizer = nnx.Optimizer(model, optax.adamw(rate), wrt=nnx.Param)
    rng = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        for batch in rng.permutation(len(x))[: steps * BATCH].reshape(steps, BATCH):
            _step(model, optimizer, x[batch], y[batch])


def main() -> None:
    """Train, export and report."""
    data = digits()
    x_train, x_test = (images[..., None].astype(np.float32) / 255 for images in (data.x_train, data.x_test))
    model = Network(nnx.Rngs(SEED))
    train(model, x_train, data.y_train)
    proto = to_onnx(
        model,
        inputs=[("batch", 8, 8, 1)],
        input_names=["image"],
        output_names=["logits"],
        model_name="digits_cnn",
        opset=OPSET,
    )
    path = save_model(proto, "jax-digits-cnn.onnx")
    report_accuracy(path, {"image": x_test}, data.y_test, "logits")


if __name__ == "__main__":
    main()
