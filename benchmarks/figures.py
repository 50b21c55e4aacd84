"""Draw every kind of plot and print or compare the digests of the files, which refactoring must not change.

    python benchmarks/figures.py FOLDER --write before.json
    python benchmarks/figures.py FOLDER --against before.json

FOLDER keeps the archives, so that both calls draw the same numbers: the demo's, and synthetic ones of images, tokens,
features and series. Without ``--write`` and ``--against`` the digests are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import archive_fakes as fakes
import numpy as np

import onnxinfo
from onnxinfo.archive.format import Metric
from onnxinfo.models.studies.script import as_script

Case = tuple[str, str, dict[str, Any]]

#: Theme, width and format: a page on paper, a column in dark mode, a slide.
STYLES = (("light", "page", "png"), ("dark", "column", "svg"), ("light", "slide", "svg"))


def make_archives(folder: Path) -> None:
    """Write missing archives."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "digits.h5").exists():
        onnxinfo.demo(folder)
    masks = np.zeros((fakes.SAMPLES, 24, 24), np.uint8)
    masks[:, 5:12, 6:15] = 1
    metrics = (fakes.PROVEN_SID, fakes.GRADIENT, fakes.CONCENTRATION, Metric("ru", "reconstruction uncertainty"))
    if not (folder / "images.h5").exists():
        for name in ("epoch 10", "epoch 2"):
            fakes.make(folder / "images.h5", name, fakes.schema(metrics=metrics, foreground=masks))
    shapes = {
        "tokens": (("position", "embedding"), (7, 4)),
        "features": (("feature",), (12,)),
        "series": (("time", "channel"), (20, 2)),
    }
    for name, (axes, shape) in shapes.items():
        if not (folder / f"{name}.h5").exists():
            options = {"thumbnails": None, "foreground": None, "unit": np.ones(shape), "metrics": (fakes.PROVEN_SID,)}
            fakes.make(folder / f"{name}.h5", name, fakes.schema(axes=axes, sample_shape=shape, **options))
    (folder / "words.txt").write_text("\n".join(f"one two word{i}" for i in range(fakes.SAMPLES)), encoding="utf-8")


def cases(folder: Path) -> Iterator[Case]:
    """Yield archive, kind of plot and options of every figure."""
    one: dict[str, Any] = {"run": "epoch 2"}
    yield "digits", "curve", {}
    yield "digits", "curve", {"spread": "iqr"}
    yield "images", "curve", {"metric": ["sid", "gradient"]}
    yield "images", "curve", {"metric": ["sid", "gradient", "concentration"], "layers": ["*layer[12]*"]}
    yield "digits", "maps", {}
    yield "digits", "maps", {"samples": ["0-2"], "overlay": True}
    yield "images", "maps", one
    yield "features", "maps", {}
    yield "images", "difference", {"run": ["epoch 10", "epoch 2"], "samples": ["0-1"]}
    yield "images", "difference", {"run": ["epoch 2", "epoch 10"]}
    yield "digits", "distribution", {}
    yield "images", "distribution", {}
    yield "digits", "certificate", {}
    yield "images", "certificate", one
    yield "images", "scatter", {}
    yield "images", "scatter", {"against": "gradient", **one}
    yield "images", "history", {}
    yield "images", "history", {"metric": "gradient", "run": ["epoch 10", "epoch 2"]}
    yield "images", "concentration", one
    yield "images", "concentration", {}
    yield "images", "coherency", {}
    yield "digits", "coherency", {}
    yield "images", "coherency", {"metric": ["gradient", "concentration"], "samples": [2], **one}
    for name in ("tokens", "features", "series"):
        yield name, "units", {}
    yield "tokens", "units", {"texts": folder / "words.txt", "samples": ["0-1"]}
    yield "images", "compare", {}
    yield "images", "compare", {"by": "depth", "unpaired": True, "metric": "gradient"}


def digests(folder: Path) -> dict[str, str]:
    """Draw all figures and return the SHA-256 of each file, by content."""
    found = {}
    for archive, kind, options in cases(folder):
        for theme, width, suffix in STYLES:
            shown = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
            key = f"{archive} {kind} {json.dumps(shown).replace(str(folder), '.')} {theme} {width} {suffix}"
            file = folder / f"figure.{suffix}"
            onnxinfo.plot(folder / f"{archive}.h5", kind, file, theme=theme, width=width, **options)
            found[key] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def main() -> int:
    """Draw, then write, compare or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the digests")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with these digests")
    arguments = parser.parse_args()
    make_archives(arguments.folder)
    found = digests(arguments.folder)
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if arguments.against:
        kept = json.loads(arguments.against.read_text(encoding="utf-8"))
        changed = [key for key in kept.keys() | found.keys() if kept.get(key) != found.get(key)]
        for key in sorted(changed):
            print(f"differs: {key}")
        print(f"{len(found) - len(changed)} of {len(found)} figures are identical")
        return int(bool(changed))
    print(json.dumps(found, indent=1) if not arguments.write else f"{len(found)} figures")
    return 0


if __name__ == "__main__":
    as_script(main)
