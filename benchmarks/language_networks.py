"""Sentences about films, and two small networks that tell whether they are favorable: a transformer and an LSTM.

The sentences are in the source distribution of the package vaderSentiment (MIT license): 10,605 snippets of reviews,
each with the mean rating of at least 20 people from -4 to 4 (Hutto and Gilbert, 2014). It is not installed:

    pip download --no-deps --no-binary vaderSentiment vaderSentiment==3.3.2
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

OUTER, INNER = "additional_resources/hutto_ICWSM_2014.tar.gz", "movieReviewSnippets_GroundTruth.txt"
#: Fewest and most words of a sentence, least distance of its rating from 0, seed of the order, and number held out.
FEWEST, MOST, CLEAR, ORDER, HELD_OUT = 4, 24, 0.5, 0, 1000
#: Indices of padding and of words that occur in fewer than this many training sentences.
PADDING, UNKNOWN, SEEN = 0, 1, 3
WIDTH, HEADS, HIDDEN, LAYERS, CLASSES = 32, 2, 64, 2, 2
EPOCHS, BATCH, RATE, DECAY, DROPOUT, WORD_DROPOUT = 12, 64, 3e-3, 1e-2, 0.3, 0.1
OPSET = 17
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Sentences:
    """Sentences as indices into a vocabulary.

    Attributes
    ----------
    tokens
        Indices, (N, MOST) int64, padded at the end.
    labels
        1 if favorable, else 0, (N,).
    vocabulary
        Word for each index.
    """

    tokens: Array
    labels: Array
    vocabulary: list[str]

    def part(self, rows: slice | Array) -> Sentences:
        """Return some of the sentences."""
        return Sentences(self.tokens[rows], self.labels[rows], self.vocabulary)


def read_sentences(distribution: Path) -> tuple[list[list[str]], list[float]]:
    """Return words and mean rating of each sentence in the source distribution."""
    with tarfile.open(distribution) as outer:
        (member,) = [each for each in outer.getmembers() if each.name.endswith(OUTER)]
        packed = outer.extractfile(member)
        assert packed is not None
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as inner:
            (member,) = [each for each in inner.getmembers() if each.name.endswith(INNER)]
            text = inner.extractfile(member)
            assert text is not None
            lines = [line.split("\t") for line in text.read().decode("utf-8", "replace").splitlines()]
    return [words_of(line[2]) for line in lines], [float(line[1]) for line in lines]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def prepared(texts: list[list[str]], ratings: list[float]) -> tuple[Sentences, Sentences]:
    """Return training and held-out sentences; the vocabulary is that of the training sentences."""
    usable = [i for i, words in enumerate(texts) if FEWEST <= len(words) <= MOST and abs(ratings[i]) > CLEAR]
    order = np.random.default_rng(ORDER).permutation(usable)
    seen = Counter(word for i in order[HELD_OUT:] for word in set(texts[i]))
    vocabulary = ["", "?", *sorted(word for word, count in seen.items() if count >= SEEN)]
    places = {word: i for i, word in enumerate(vocabulary)}
    tokens = np.full((len(order), MOST), PADDING, np.int64)
    for row, i in enumerate(order):
        tokens[row, : len(texts[i])] = [places.get(word, UNKNOWN) for word in texts[i]]
    all_of_them = Sentences(tokens, np.array([int(ratings[i] > 0) for i in order]), vocabulary)
    return all_of_them.part(slice(HELD_OUT, None)), all_of_them.part(slice(HELD_OUT))


class Attention(nn.Module):
    """Block of a transformer: attention of every word to every word, and a perceptron (pre-normalized)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.keys, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.body = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        parts = self.keys(self.before(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        seen = (mask[:, None, None] - 1) * 1e4
        mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen.expand(-1, HEADS, MOST, -1))
        x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.drop(self.body(self.between(x)))


class Recurrent(nn.Module):
    """Layer of an LSTM, from the first word to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.drop(self.cells(x)[0])
        return states


KINDS = {"transformer": Attention, "LSTM": Recurrent}


class Classifier(nn.Module):
    """Embedding, layers, and a linear layer of the mean over the words."""

    def __init__(self, kind: str, vocabulary: int, layers: int = LAYERS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH, PADDING)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.places = nn.Parameter(torch.randn(MOST, WIDTH) / 10) if kind == "transformer" else None
        self.layers = nn.ModuleList(KINDS[kind]() for _ in range(layers))
        self.drop = nn.Dropout(DROPOUT)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the class scores, the output of each layer, and the mean over the words; padding is 0."""
        there = mask.to(self.head.weight.dtype)
        x = self.embedding(tokens)
        if self.places is not None:
            x = x + self.places
        x, features = self.drop(x) * there[..., None], []
        for layer in self.layers:
            x = layer(x, there) * there[..., None]
            features.append(x)
        mean = x.sum(1) / there.sum(1, keepdim=True)
        return self.head(self.drop(mean)), *features, mean


def mask_of(tokens: Tensor) -> Tensor:
    """Return 1 for words and 0 for padding."""
    return (tokens != PADDING).long()


def train(network: Classifier, sentences: Sentences, epochs: int = EPOCHS) -> None:
    """Train with AdamW and a one-cycle learning rate; some words are hidden in each epoch."""
    tokens, labels = torch.from_numpy(sentences.tokens), torch.from_numpy(sentences.labels)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    steps = len(tokens) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs=epochs, steps_per_epoch=steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(tokens))[: steps * BATCH].reshape(steps, BATCH):
            shown = tokens[rows]
            hidden = (torch.rand(shown.shape) < WORD_DROPOUT) & (shown != PADDING)
            optimizer.zero_grad()
            scores = network(shown.masked_fill(hidden, UNKNOWN), mask_of(shown))[0]
            torch.autograd.backward(cross_entropy(scores, labels[rows]))
            optimizer.step()
            schedule.step()
    network.eval().requires_grad_(False)


def export(network: Classifier) -> onnx.ModelProto:
    """Export with a free batch size; the outputs are ``logits``, ``layer_1``, ``layer_2``, ..., ``mean``."""
    names = ["logits", *(f"layer_{depth}" for depth in range(1, len(network.layers) + 1)), "mean"]
    inputs, tokens = ["tokens", "attention_mask"], torch.full((2, MOST), UNKNOWN)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network.eval(), (tokens, mask_of(tokens)), file, dynamo=False, opset_version=OPSET, input_names=inputs,
            output_names=names, dynamic_axes={name: {0: "batch"} for name in [*inputs, *names]},
        )  # fmt: skip
        return onnx.load(file)
