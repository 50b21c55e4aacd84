"""Draw the pictures of README and docs from the demo's archive: python docs/pictures.py demo/digits.h5."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxinfo

FOLDER = Path(__file__).with_name("pictures")


def draw(archive: str) -> None:
    """Draw all pictures."""
    FOLDER.mkdir(exist_ok=True)
    onnxinfo.plot(archive, "curve", FOLDER / "curve.png")
    onnxinfo.plot(archive, "maps", FOLDER / "maps.png", samples=["0-3"])
    onnxinfo.plot(archive, "certificate", FOLDER / "certificate.png")


if __name__ == "__main__":
    draw(sys.argv[1])
