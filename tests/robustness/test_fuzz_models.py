"""Damaged models never yield numbers: they verify against ONNX Runtime, or are refused with a one-line reason."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from fuzzing import Watch, mutate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from onnxinfo import OnnxinfoError, check_model
from onnxinfo.models import path

MODELS = sorted(path("digits-cnn.onnx").parent.glob("*.onnx"))
CASES = 500
DEFAULT = 30
INTEGERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 8, 16, 255, 2**16, 2**31 - 1, 2**40, 2**63 - 1]
TEXTS = ["", "x", "Relu", "Conv", "Loop", "ai.onnx.ml", "com.microsoft", "\n\x1b[31m", "../../x", "é" * 50]


def damaged(case: int) -> tuple[str, bytes]:
    """Name of a model and a damaged copy of it, half of them damaged in bytes, half in protobuf fields."""
    chance = random.Random(case)
    file = chance.choice(MODELS)
    data = file.read_bytes()
    if case % 2:
        return file.name, mutate(data, chance, _described(data))
    model = onnx.ModelProto.FromString(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        _change(chance.choice(list(_messages(model))), chance)
    return file.name, model.SerializeToString()


def _described(data: bytes) -> list[tuple[int, int]]:
    """Parts of a file that are not weights: around names of operators and attributes."""
    marks = (b"Conv", b"MatMul", b"Reshape", b"Loop", b"axis", b"kernel_shape", b"to", b"N")
    found = (data.find(mark, start) for mark in marks for start in range(0, len(data), max(1, len(data) // 8)))
    return [(max(0, at - 40), at + 60) for at in found if at >= 0]


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from _messages(item)


def _change(message: Message, chance: random.Random) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = chance.choice(fields)
    if field.is_repeated:
        _change_repeated(value, field, chance)
    elif field.message_type is not None:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _other(field, value, chance))


def _change_repeated(values: Any, field: FieldDescriptor, chance: random.Random) -> None:
    at = chance.randrange(len(values))
    kind = chance.choice(["delete", "repeat", "change", "swap"])
    if kind == "delete":
        del values[at]
    elif kind == "swap":
        items = list(values)
        chance.shuffle(items)
        del values[:]
        values.extend(items)
    elif field.message_type is not None:
        values.add().CopyFrom(values[at])
    elif kind == "repeat":
        values.append(values[at])
    else:
        values[at] = _other(field, values[at], chance)


def _other(field: FieldDescriptor, value: Any, chance: random.Random) -> Any:
    """Another value of a field's type."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if isinstance(value, bytes):
            return mutate(value, chance)
        return chance.choice([*TEXTS, value + "x"])
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return chance.choice([float("nan"), float("inf"), -1.0, 0.0, 1e30])
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([v.number for v in field.enum_type.values])
    if field.cpp_type == FieldDescriptor.CPPTYPE_INT32:
        return chance.choice([-(2**31), -1, *range(25), 2**31 - 1])
    return chance.choice([n for n in INTEGERS if n >= 0] if "UINT" in str(field.cpp_type) else INTEGERS)


def _case(case: int | None, folder: Path) -> str:
    """Check a damaged model and return the outcome; errors that are not ours propagate."""
    if case is None:
        check_model(MODELS[0])
        return ""
    name, data = damaged(case)
    file = folder / "damaged.onnx"
    file.write_bytes(data)
    try:
        said = check_model(file).error or "verified"
    except OnnxinfoError as error:
        said = str(error)
    assert said.isprintable(), f"more than one line: {said!r}"
    assert len(said) < 2000
    return f"{name}: {said}"


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    watched = Watch(_case, tmp_path_factory.mktemp("damaged"))
    yield watched
    watched.close()


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(DEFAULT, CASES, DEFAULT))]
)
def test_damaged_models_verify_or_are_refused(watch: Watch, first: int) -> None:
    outcomes = [watch.run(case) for case in range(first, min(first + DEFAULT, CASES))]
    assert [(o.case, o.failure) for o in outcomes if o.failure] == []
    assert any(o.said.endswith(": verified") for o in outcomes)
    assert any(not o.said.endswith(": verified") for o in outcomes)
