"""Train a residual CNN on scikit-learn's digits and export it with PyTorch's current exporter: ``digits-cnn.onnx``.

Run ``python -m models.train_digits_cnn`` in the repository, with the extra ``models-torch`` installed.
"""

from __future__ import annotations

import onnx
import torch
from torch import nn

from .datasets import SEED, Array, digits
from .export import report_accuracy, save_model

EPOCHS = 30
BATCH = 64


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016).

    Parameters
    ----------
    channels_in, channels
        Numbers of input and output channels.
    stride
        Stride of the first convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.around = nn.Identity() if stride == 1 else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels_in, H, W) to (N, channels, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.around(x))


def network() -> nn.Sequential:
    """Return the untrained network: (N, 1, 8, 8) in [0, 1] to ten logits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, stride=1),
        Block(16, 32, stride=2),
        Block(32, 40, stride=2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(40, 10),
    )


def as_input(images: Array) -> torch.Tensor:
    """Return (N, 8, 8) uint8 images in the form that the network takes."""
    return torch.from_numpy(images).float().div(255).unsqueeze(1)


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = EPOCHS) -> None:
    """Train with AdamW and a one-cycle learning rate; leave the model in evaluation mode."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs=epochs, steps_per_epoch=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for batch in order[: steps * BATCH].reshape(steps, BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x[batch]), y[batch]))
            optimizer.step()
            schedule.step()
    model.eval()


def by_dynamo(model: nn.Module, example: torch.Tensor, name: str, opset: int) -> onnx.ModelProto:
    """Export with the current exporter and a dynamic first axis."""
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[name],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    return program.model_proto


def main() -> None:
    """Train, export, bundle and report."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = digits()
    model = network()
    train(model, as_input(data.x_train), torch.from_numpy(data.y_train))
    path = save_model(by_dynamo(model, as_input(data.x_test[:2]), "image", opset=20), "digits-cnn.onnx")
    report_accuracy(path, {"image": as_input(data.x_test).numpy()}, data.y_test, "logits")


if __name__ == "__main__":
    main()
