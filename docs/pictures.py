"""Draw the pictures of README and docs: python docs/pictures.py demo/digits.h5 resnet20.h5.

The second archive is that of the README's picture: a ResNet-20 on 50 test images of CIFAR-10, whose labels are words.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnxinfo

FOLDER = Path(__file__).with_name("pictures")


def draw(archive: str, network: str) -> None:
    """Draw all pictures."""
    FOLDER.mkdir(exist_ok=True)
    onnxinfo.plot(network, "overview", FOLDER / "overview.png")
    onnxinfo.plot(network, "maps", FOLDER / "changes.png", samples=["0-3"], change=True)
    onnxinfo.plot(archive, "maps", FOLDER / "maps.png", samples=["0-3"])
    onnxinfo.plot(archive, "certificate", FOLDER / "certificate.png")


if __name__ == "__main__":
    draw(*sys.argv[1:])
