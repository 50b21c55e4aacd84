"""Train PyTorch networks and export them with both of PyTorch's exporters.

Run ``python -m models.export_torch`` in the repository, with the extra ``models-torch`` installed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from .datasets import SEED, WORDS, digits, text
from .export import report_accuracy, save_model
from .train_digits_cnn import as_input, by_dynamo, network, train

CLASSES = 10


class Recurrent(nn.Module):
    """A bidirectional LSTM over an image's eight rows: (N, 8, 8) in [0, 1] to ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits from the mean over rows."""
        states, _ = self.lstm(rows)
        logits: torch.Tensor = self.head(states.mean(dim=1))
        return logits


class Transformer(nn.Module):
    """A transformer encoder of two layers, from words (N, WORDS) int64 to the description they are from.

    Parameters
    ----------
    vocabulary
        Number of words.
    classes
        Number of descriptions.
    width
        Width of the embedding.
    """

    def __init__(self, vocabulary: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.place = nn.Parameter(torch.randn(WORDS, width) / 10)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.3, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits from the mean over words."""
        logits: torch.Tensor = self.head(self.encoder(self.embedding(tokens) + self.place).mean(dim=1))
        return logits


def by_torchscript(model: nn.Module, example: torch.Tensor, name: str, opset: int) -> onnx.ModelProto:
    """Export by tracing, the default exporter until PyTorch 2.8."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(
            model,
            (example,),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=[name],
            output_names=["logits"],
            dynamic_axes={name: {0: "batch"}, "logits": {0: "batch"}},
        )
        return onnx.load(file)


def main() -> None:
    """Train, export and report."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = digits()
    y_train = torch.from_numpy(data.y_train)
    cnn, rows = as_input(data.x_train), as_input(data.x_train).squeeze(1)

    # The network of digits-cnn.onnx again, with the other exporter.
    torch.manual_seed(SEED)
    model: nn.Module = network()
    train(model, cnn, y_train)
    path = save_model(by_torchscript(model, cnn[:2], "image", opset=13), "torch-digits-cnn.onnx")
    report_accuracy(path, {"image": as_input(data.x_test).numpy()}, data.y_test, "logits")

    torch.manual_seed(SEED)
    model = Recurrent()
    train(model, rows, y_train)
    path = save_model(by_torchscript(model, rows[:2], "rows", opset=17), "torch-digits-lstm.onnx")
    report_accuracy(path, {"rows": data.x_test.astype(np.float32) / 255}, data.y_test, "logits")

    words = text()
    torch.manual_seed(SEED)
    model = Transformer(len(words.vocabulary), len(words.classes))
    tokens = torch.from_numpy(words.tokens.x_train)
    train(model, tokens, torch.from_numpy(words.tokens.y_train), epochs=100)
    path = save_model(by_dynamo(model, tokens[:2], "tokens", opset=20), "torch-text-transformer.onnx")
    report_accuracy(path, {"tokens": words.tokens.x_test}, words.tokens.y_test, "logits")


if __name__ == "__main__":
    main()
