"""Train Keras networks on digits and text and export them through tf2onnx.

Run ``python -m models.export_tensorflow`` in the repository, with the extra ``models-tensorflow`` installed.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from keras import layers

from .datasets import SEED, WORDS, Array, digits, text
from .export import report_accuracy, save_model

OPSET = 17
CLASSES = 10


def cnn() -> keras.Model:
    """Return an untrained CNN: (N, 8, 8, 1) in [0, 1], channels last, to ten probabilities."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(CLASSES, activation="softmax", name="class"),
        ],
        name="digits_cnn",
    )


def recurrent(cell: type[layers.Layer], name: str) -> keras.Model:
    """Return an untrained recurrent network over an image's eight rows, (N, 8, 8) in [0, 1]."""
    return keras.Sequential(
        [
            keras.Input((8, 8), name="rows"),
            cell(24, return_sequences=True),
            cell(24),
            layers.Dense(CLASSES, activation="softmax", name="class"),
        ],
        name=name,
    )


@keras.saving.register_keras_serializable("onnxinfo")
class Place(layers.Layer):
    """Adds a trainable vector to each position of a sequence (N, positions, width)."""

    def build(self, shape: tuple[int | None, int, int]) -> None:
        """Create the vectors, (positions, width)."""
        self.vectors = self.add_weight(shape=shape[1:], initializer="normal", name="vectors")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return the sum."""
        return x + self.vectors


def transformer(vocabulary: int, classes: int, width: int = 32) -> keras.Model:
    """Return an untrained one-block transformer encoder, from words (N, WORDS) int32 to their description."""
    tokens = keras.Input((WORDS,), dtype="int32", name="tokens")
    x = Place()(layers.Embedding(vocabulary, width)(tokens))
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(num_heads=2, key_dim=width // 2, dropout=0.2)(y, y)
    y = layers.Dense(2 * width, activation="relu")(layers.LayerNormalization()(x))
    x = layers.LayerNormalization()(x + layers.Dense(width)(layers.Dropout(0.3)(y)))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(tokens, layers.Dense(classes, activation="softmax", name="class")(x), name="text_transformer")


def fit(model: keras.Model, x: Array, y: Array, epochs: int) -> None:
    """Train with Adam and a cosine learning rate."""
    steps = -(-len(x) // 32) * epochs
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)


def export(model: keras.Model, name: str, x: Array, y: Array) -> None:
    """Export and report on held-out samples."""
    (tensor,) = model.inputs
    signature = tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name)

    @tf.function(input_signature=[signature])
    def probabilities(samples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": model(samples, training=False)}

    proto, _ = tf2onnx.convert.from_function(probabilities, input_signature=[signature], opset=OPSET)
    path = save_model(proto, name)
    report_accuracy(path, {tensor.name: x}, y, "probabilities")


def main() -> None:
    """Train, export and report."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    data = digits()
    x_train, x_test = (images.astype(np.float32) / 255 for images in (data.x_train, data.x_test))

    model = cnn()
    fit(model, x_train[..., None], data.y_train, epochs=25)
    export(model, "keras-digits-cnn.onnx", x_test[..., None], data.y_test)
    for cell in (layers.LSTM, layers.GRU):
        kind = cell.__name__.lower()
        model = recurrent(cell, f"digits_{kind}")
        fit(model, x_train, data.y_train, epochs=60)
        export(model, f"keras-digits-{kind}.onnx", x_test, data.y_test)

    words = text()
    model = transformer(len(words.vocabulary), len(words.classes))
    fit(model, words.tokens.x_train, words.tokens.y_train, epochs=40)
    export(model, "keras-text-transformer.onnx", words.tokens.x_test.astype(np.int32), words.tokens.y_test)


if __name__ == "__main__":
    main()
