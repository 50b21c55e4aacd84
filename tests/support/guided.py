"""Coverage-guided fuzzing of readers of untrusted files; needs atheris, and finds cases for the tests.

    python tests/support/guided.py TARGET FOLDER [-max_total_time=600 and other options of libFuzzer]

TARGET is labels, boxes, voc, coco, npz or attribute; FOLDER keeps the interesting inputs. An exception that is
not ours ends it, with the input in a file ``crash-...``: keep that one in ``tests/data/fuzz/`` once it is mended.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["onnxinfo", "zipfile", "csv", "json", "xml"], enable_loader_override=False):
    import numpy as np

    from onnxinfo import OnnxinfoError
    from onnxinfo.archive.format import decode_attribute, encode_attribute
    from onnxinfo.inputs.foreground import open_foreground
    from onnxinfo.inputs.opening import open_samples

PIXELS = np.zeros((3, 8, 8, 3), np.uint8)
SHAPE = (3, 8, 8)
SEEDS = {
    "labels": b"name,label\n0,cat\n1,dog\n2,7\n",
    "boxes": b"name,xmin,ymin,xmax,ymax\n0,1,1,6,6\n1,0,0,8,8\n2,2,3,7,8\n",
    "voc": b"<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>6</xmax><ymax>7</ymax></bndbox></object>"
    b"</annotation>",
    "coco": b'{"images": [{"id": 1, "file_name": "0", "width": 8, "height": 8}], "annotations": [{"image_id": 1, '
    b'"bbox": [1, 1, 5, 5]}], "categories": []}',
    "attribute": b'{"a": [1, null, "x"]}',
    "npz": b"",
}
folder = Path(tempfile.mkdtemp())


def read(kind: str, data: bytes) -> None:
    """Read some bytes as an analysis reads a file of them."""
    if kind == "attribute":
        text = data.decode("utf-8", "replace")
        decoded = decode_attribute(text)
        again = decode_attribute(encode_attribute(decoded))
        assert repr(again) == repr(decoded) or isinstance(decoded, str)
        return
    path = folder / {"labels": "a.csv", "boxes": "a.csv", "voc": "voc/0.xml", "coco": "a.json", "npz": "a.npz"}[kind]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    if kind in ("labels", "npz"):
        options = {"labels": str(path)} if kind == "labels" else {}
        samples = open_samples(PIXELS if options else str(path), shape=SHAPE, **options)
        samples.digest()
        assert np.isfinite(samples.batch(range(len(samples)))).all()
        return
    samples = open_samples(PIXELS, shape=SHAPE)
    found = open_foreground(str(path.parent if kind == "voc" else path))
    found.crops()
    masks = found.masks(samples)
    assert masks.shape == (len(PIXELS), 8, 8)
    assert set(np.unique(masks)) <= {0, 1}


def main() -> None:
    kind, corpus, *options = sys.argv[1:]
    Path(corpus).mkdir(parents=True, exist_ok=True)
    if kind == "npz":
        np.savez_compressed(folder / "seed.npz", PIXELS)
        SEEDS["npz"] = (folder / "seed.npz").read_bytes()
    (Path(corpus) / "seed").write_bytes(SEEDS[kind])

    def one(data: bytes) -> None:
        try:
            read(kind, data)
        except OnnxinfoError as error:
            assert "\n" not in str(error)  # noqa: PT017 - this is no test of pytest's
            assert str(error).isprintable(), repr(str(error))  # noqa: PT017

    atheris.Setup([sys.argv[0], corpus, "-timeout=10", "-rss_limit_mb=2048", *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
