"""The reference evaluator runs listed operators only, and decodes listed image formats only."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import onnxinfo
from onnxinfo.graph.reference import FORMATS, OPERATORS, Reference

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
showpage
%%EOF
"""


def decoder(pixel_format: str = "RGB") -> onnx.ModelProto:
    node = helper.make_node("ImageDecoder", ["file"], ["image"], pixel_format=pixel_format)
    graph = helper.make_graph(
        [node],
        "decoder",
        [helper.make_tensor_value_info("file", TensorProto.UINT8, ["bytes"])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["h", "w", "c"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def encoded(format: str) -> np.ndarray:
    pixels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(4, 5, 3)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format=format)
        return np.frombuffer(file.getvalue(), np.uint8)


def test_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, program = tmp_path / "started", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    image = torch.frombuffer(bytearray(EPS), dtype=torch.uint8)
    with pytest.raises(
        onnxinfo.ConversionError, match=r"ImageDecoder .* cannot run: the image is damaged, or of none of"
    ):
        onnxinfo.convert(decoder())(image)
    assert not marker.exists()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("pixel_format", "channels"), [("RGB", 3), ("BGR", 3), ("Grayscale", 1)])
def test_listed_formats_are_decoded(format: str, pixel_format: str, channels: int) -> None:
    (image,) = Reference(decoder(pixel_format)).run({"file": encoded(format)})
    assert image.shape == (4, 5, channels)
    if format == "PNG" and channels == 3:
        pixels = np.arange(3 * 4 * 5).reshape(4, 5, 3)
        np.testing.assert_array_equal(image, pixels if pixel_format == "RGB" else pixels[:, :, ::-1])


def test_large_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxinfo.graph.reference.MAX_PIXELS", 19)
    with pytest.raises(ValueError, match="5x4 pixels, expected at most 19"):
        Reference(decoder()).run({"file": encoded("PNG")})


def test_operators_that_are_not_listed_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "", OPERATORS[""] - {"ImageDecoder"})
    with pytest.raises(NotImplementedError, match="not given operator ImageDecoder"):
        Reference(decoder())
    with pytest.raises(onnxinfo.errors.ConversionError, match="ImageDecoder"):
        onnxinfo.convert(decoder())


def test_what_is_listed_is_known() -> None:
    known = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas_with_history()}
    assert {(domain, name) for domain, names in OPERATORS.items() for name in names} <= known
