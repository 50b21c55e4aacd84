"""Write the inputs of the gallery's commands from bundled samples and, if given, from CIFAR-10.

    python docs/gallery_inputs.py FOLDER [cifar10.npz]

``wine.csv`` holds the wines with the names of their columns, and ``tokens.txt`` the words of the first texts. From
CIFAR-10 (``x_test``, ``y_test`` and ``classes``) come the first 50 test images as PNG files in ``images``, their
classes' names in ``labels.npy``, and two cats and two dogs in ``pets.npz``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

BUNDLED = Path(__file__).parents[1] / "models"
#: Columns of ``wine.npz``, as scikit-learn names them.
COLUMNS = (
    "alcohol",
    "malic_acid",
    "ash",
    "alcalinity_of_ash",
    "magnesium",
    "total_phenols",
    "flavanoids",
    "nonflavanoid_phenols",
    "proanthocyanins",
    "color_intensity",
    "hue",
    "od280/od315_of_diluted_wines",
    "proline",
)
TEXTS, IMAGES = 8, 50
#: Two cats and two dogs among the test images.
PETS = [25, 81, 2, 4]


def write_wines(folder: Path) -> None:
    """Write the wines as a table, with the cultivar in the last column."""
    with np.load(BUNDLED / "wine.npz") as data, (folder / "wine.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([*COLUMNS, "cultivar"])
        for features, label in zip(data["features"], data["labels"], strict=True):
            # The shortest decimals that give the same float32 when they are read.
            table.writerow([*map(str, features), int(label)])


def write_words(folder: Path) -> None:
    """Write the words of each of the first texts on a line."""
    with np.load(BUNDLED / "text.npz") as data:
        lines = [" ".join(words) for words in data["vocabulary"][data["tokens"][:TEXTS]]]
    (folder / "tokens.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_images(folder: Path, source: Path) -> None:
    """Write test images and the names of their classes, and the pets."""
    with np.load(source) as data:
        images, labels, classes = data["x_test"], data["y_test"], data["classes"]
    (folder / "images").mkdir(exist_ok=True)
    for number, image in enumerate(images[:IMAGES]):
        Image.fromarray(image).save(folder / "images" / f"{number:03}.png")
    np.save(folder / "labels.npy", classes[labels[:IMAGES]])
    np.savez(folder / "pets.npz", images=images[PETS], labels=classes[labels[PETS]])


def main(arguments: list[str]) -> None:
    """Write all inputs for which there is a source."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    write_wines(folder)
    write_words(folder)
    for source in arguments[1:2]:
        write_images(folder, Path(source))


if __name__ == "__main__":
    main(sys.argv[1:])
