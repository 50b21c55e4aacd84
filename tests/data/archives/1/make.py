"""How ``archive.h5`` and ``expected.json`` here were made: run once, by the code that wrote format version 1.

From the repository's root: python tests/data/archives/1/make.py
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[2] / "support"))


def main() -> None:
    """Write the archive, and the values that every later version must read from it."""
    from archive_fakes import fill, schema, table_schema

    import onnxinfo
    from onnxinfo.archive.writer import RunWriter
    from onnxinfo.models import path as bundled

    archive = FOLDER / "archive.h5"
    archive.unlink(missing_ok=True)
    digits = bundled("digits.npz")
    onnxinfo.analyze(
        bundled("digits-cnn.onnx"), f"{digits}:images", archive, layers=["relu_4"], limit=2, labels=f"{digits}:labels"
    )
    images = schema(layers=schema().layers[:2], sample_names=["a.png", "b.png"], labels=[0, 1])
    images = images.__class__(**{**vars(images), "thumbnails": images.thumbnails[:2], "foreground": None})
    for name, compression in (("images", "rounded"), ("half", "float16")):
        with RunWriter.open(archive, name, images, compression=compression) as writer:
            fill(writer, images)
    rows = table_schema()
    try:
        with RunWriter.open(archive, "interrupted", rows) as writer:
            fill(writer, rows, stop=5)
    except KeyboardInterrupt:
        pass
    (FOLDER / "expected.json").write_text(json.dumps(expected(archive), indent=1, ensure_ascii=False) + "\n")


def expected(path: Path) -> dict:
    """Return everything that is read from an archive."""
    import onnxinfo

    found = {}
    with onnxinfo.open(path) as archive:
        for name in archive:
            run = archive[name]
            found[name] = {
                "status": run.status,
                "created": run.created,
                "compression": run.compression,
                "recipe": run.recipe,
                "provenance": run.provenance,
                "layers": [vars(layer) for layer in run.layers],
                "axes": dict(zip(run.axes, run.sample_shape, strict=True)),
                "metrics": {metric.name: [metric.units, metric.long_name] for metric in run.metrics},
                "unit": np.asarray(run.unit).tolist(),
                "thumbnails": None if run.thumbnails is None else zlib.crc32(run.thumbnails.tobytes()),
                "normalizer": {metric.name: hexadecimal(run.normalizer(metric.name)) for metric in run.metrics},
                "values": {
                    metric.name: {key: hexadecimal(value) for key, value in run.values(metric.name).items()}
                    for metric in run.metrics
                },
                "maps": {
                    metric.name: [zlib.crc32(run.maps(metric.name, layer).tobytes()) for layer in range(run.shape[0])]
                    for metric in run.metrics
                    if metric.has_map
                },
                "table": run.table("sample")["sample_name"],
                "labels": None if run.labels is None else np.asarray(run.labels).tolist(),
            }
    return found


def hexadecimal(numbers: np.ndarray) -> str:
    """Return numbers without loss of bits."""
    return np.ascontiguousarray(numbers).tobytes().hex()


if __name__ == "__main__":
    main()
