"""A checked ONNX model, loaded from a file, bytes or a ``ModelProto``, with inferred shapes and all its weights."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError

from .. import markup
from ..errors import ModelError, UsageError
from ..kinds import ONNX
from ..outputs import Output, claim
from ..replacing import is_stream, replacing
from ..text import printable, quoted
from . import protos
from .branches import inline_decided_branches
from .classifiers import separate_scores
from .collection import paused_collection
from .dataflow import Dataflow
from .external_data import read_external_data
from .frameworks import FrameworkModel, export_model, framework_of
from .functions import check_functions
from .inference import check
from .protobuf_scan import why_unreadable
from .shapes import complete_shapes, free_dimensions
from .tensor_data import byte_count
from .weights import attach_data, detach_data

logger = logging.getLogger(__name__)

#: Maximum size of a protobuf message; larger models keep their weights in external files.
MAX_PROTO_BYTES = 2**31 - 1
#: Oldest supported version of ONNX's file format (IR version); the newest is that of the installed onnx.
OLDEST_FORMAT = 3


@dataclass(frozen=True, repr=False)
class Model:
    """A checked ONNX model.

    Parameters
    ----------
    proto
        The model with inferred shapes (``value_info``) and with its external data loaded.
    sha256
        Digest of the file's bytes followed by the external data; without a file, of the serialized proto.
    name
        File name without its suffix, or the name of the graph.
    path
        The file, if there was one.
    batch_axes
        Axis of the samples by graph input, where it is not the first; -1 where it has none.
    changes
        Settings that make the network another one than the file's, as text; empty if it is the file's.
    exported
        What exported it, with versions, if it was given as the model of a framework; else empty.
    parts
        Layers by the parts of them that were added as tensors of their own.

    Examples
    --------
    >>> model = onnxinfo.load("digits-cnn.onnx")
    >>> model.name, len(model.proto.graph.node), len(model.sha256)
    ('digits-cnn', 22, 64)
    """

    proto: onnx.ModelProto
    sha256: str
    name: str
    path: Path | None
    batch_axes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    changes: str = ""
    exported: str = ""
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @cached_property
    def flow(self) -> Dataflow:
        """Dataflow of the main graph, computed once."""
        return Dataflow(self.proto.graph)

    @property
    def identity(self) -> str:
        """Digest of the file and of what was changed about its network."""
        return hashlib.sha256(f"{self.sha256} {self.changes}".encode()).hexdigest() if self.changes else self.sha256

    def __repr__(self) -> str:
        nodes, flow = len(self.proto.graph.node), self.flow
        given, returned = (", ".join(self._described(names)) for names in (flow.inputs, flow.results))
        return f"<model {quoted(self.name)}: {nodes} nodes, opset {self._opset}; inputs {given}; outputs {returned}>"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [
            ("file", "" if self.path is None else self.path),
            ("inputs", "; ".join(self._described(self.flow.inputs))),
            ("outputs", "; ".join(self._described(self.flow.results))),
            ("nodes", f"{len(self.proto.graph.node)}, of {len(self.flow.operators)} operators"),
            ("parameters", f"{sum(math.prod(tensor.dims) for tensor in self.proto.graph.initializer):,}"),
            ("opset", self._opset),
            ("SHA-256", self.sha256[:16] + "…"),
            ("changes", self.changes),
            ("exported by", self.exported),
        ]
        return markup.card("Model", self.name, markup.facts(rows))

    @property
    def _opset(self) -> str:
        return ", ".join(f"{opset.domain} {opset.version}".strip() for opset in self.proto.opset_import)

    def _described(self, names: Iterable[str]) -> list[str]:
        """Return name, element type and shape of each tensor."""
        found = []
        for name in names:
            element, shape = self.flow.element_type(name), self.flow.shape(name)
            kind = onnx.TensorProto.DataType.Name(element).lower() if element else "other"
            sizes = "" if shape is None else " " + "x".join("?" if size is None else str(size) for size in shape)
            found.append(f"{printable(name)} ({kind}{sizes})")
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Omit what can be recomputed."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto | Model | FrameworkModel


def load(source: ModelSource, *, example: Any = None) -> Model:
    """Read and check an ONNX model, or export a framework's model; infer its shapes and load its external data.

    Parameters
    ----------
    source
        Path of a model (in ONNX's textual syntax if its suffix is ``.onnxtxt``), bytes, ``ModelProto`` (not modified)
        or loaded model (returned unchanged); or a torch module, a Keras model or a fitted scikit-learn estimator, which
        is exported and checked to compute the same as before.
    example
        Input of a torch module, from which it is exported: a tensor with the samples along the first axis, a tuple of
        these, or a mapping from names of parameters of ``forward``. Keras models and estimators need none.

    Returns
    -------
    Model
        The loaded model. The operator domain ``ai.onnx`` is written as ``""``, training information is omitted, an
        ``If`` whose condition is constant is replaced by the nodes of its branch, and classifiers of ``ai.onnx.ml``
        that return probabilities are followed by a ``Softmax`` or ``Sigmoid`` of their scores.

    Raises
    ------
    ModelError
        The source is not an ONNX model, is truncated, damaged, rejected by ONNX's checker, of an unsupported version,
        or its external data are missing or outside the model's folder; or a framework's model cannot be exported.
    UsageError
        The example of a torch module is missing, or the exporter is not installed.

    Examples
    --------
    >>> model = onnxinfo.load("digits-cnn.onnx")
    >>> [output.name for output in model.proto.graph.output]
    ['logits']
    """
    if isinstance(source, Model):
        return source
    if framework_of(source) is not None:
        return _from_framework(source, example)
    if example is not None:
        raise UsageError("'example' is the input of a torch module or Keras model, and the model is none; leave it out")
    with paused_collection():
        return _load(source)


def _from_framework(source: ModelSource, example: Any) -> Model:
    exported = export_model(source, example)
    exported.proto.graph.name = exported.name
    with paused_collection():
        return dataclasses.replace(_load(exported.proto), exported=exported.how)


def _load(source: ModelSource) -> Model:
    if isinstance(source, onnx.ModelProto):
        return _from_proto(source)
    if isinstance(source, bytes):
        digest = hashlib.sha256(source)
        return _finish(_parse(source, "the model given as bytes"), digest, None)
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fspath(source))
        data = _read(path)
        return _finish(_parsed(data, path), hashlib.sha256(data), path)
    raise UsageError(
        f"a model is a path, bytes, a ModelProto, a torch module, a Keras model or a scikit-learn estimator, not "
        f"{type(source).__name__}"
    )


def parse_file(path: Path) -> onnx.ModelProto:
    """Read the message in a file as it is there: nothing is checked or inferred, and external data are not read."""
    return _parsed(_read(path), path)


def _parsed(data: bytes, path: Path) -> onnx.ModelProto:
    text = path.suffix.lower() in ONNX.text_suffixes
    return (_parse_text if text else _parse)(data, f"{quoted(path)}")


def save(model: ModelSource, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a model to a file atomically.

    The weights of a model beyond protobuf's size limit are written to ``<path>.data`` beside it, or, if that exists,
    to ``<path>.2.data`` and so on: the weights of a model that is replaced stay.

    Parameters
    ----------
    model
        See :func:`load`.
    path
        The file. An existing ONNX model is replaced, other files are not.
    force
        Replace an existing file whatever it contains, but never the file that the model was read from, or its external
        data.

    Raises
    ------
    UsageError
        The file is one that the model was read from, or exists and is of another kind.
    ModelError
        The model cannot be loaded, or the file cannot be written.

    Examples
    --------
    >>> onnxinfo.save(onnxinfo.expose("digits-cnn.onnx", ["relu"]), "exposed.onnx")
    >>> [output.name for output in onnxinfo.load("exposed.onnx").proto.graph.output]
    ['logits', 'relu']
    """
    output = claim(path, ONNX, inputs=[model], force=force, failure=ModelError)
    write_model(load(model).proto, output)


def write_model(proto: onnx.ModelProto, output: Output) -> None:
    """Write a message with all its weights to a claimed file, see :func:`save`."""
    try:
        if _data_bytes(proto) < MAX_PROTO_BYTES - _MARGIN:
            with output.writing() as part:
                part.write_bytes(proto.SerializeToString())
        else:
            _save_with_external_data(proto, output)
    except (EncodeError, ValueError):
        raise ModelError(f"{quoted(output.path)} cannot be written: too large for one protobuf message") from None


# Space reserved for everything except weights in a model written as a single file.
_MARGIN = 2**26
# Smaller tensors stay in the model file.
_STORED_BYTES = 1024


def _data_bytes(proto: onnx.ModelProto) -> int:
    return sum(byte_count(t) for t in protos.tensors(proto) if t.data_type != onnx.TensorProto.STRING)


def _save_with_external_data(proto: onnx.ModelProto, output: Output) -> None:
    if is_stream(output.path):
        raise ModelError(f"{quoted(output.path)} cannot be written: the weights need a file beside the model")
    stored = _vacant_name(output.path)
    light = protos.copy_into(onnx.ModelProto(), proto, ("graph",))
    protos.copy_into(light.graph, proto.graph, ("initializer",))

    def write(file: Any) -> None:
        for tensor in proto.graph.initializer:
            if tensor.HasField("raw_data") and byte_count(tensor) >= _STORED_BYTES:
                copy = protos.copy_into(light.graph.initializer.add(), tensor, ("raw_data",))
                copy.data_location = onnx.TensorProto.EXTERNAL
                where = {"location": stored.name, "offset": file.tell(), "length": file.write(tensor.raw_data)}
                for key, value in where.items():
                    copy.external_data.add(key=key, value=str(value))
            else:
                protos.copy_tensors(light.graph.initializer, [tensor])

    try:
        with output.writing() as part:
            with replacing(stored, ModelError) as data, data.open("wb") as file:
                write(file)
            part.write_bytes(light.SerializeToString())
    except BaseException:
        stored.unlink(missing_ok=True)
        raise


def _vacant_name(target: Path) -> Path:
    """Return an unused file name for a model's weights beside it."""
    numbers = itertools.chain([""], (f".{number}" for number in itertools.count(2)))
    names = (target.with_name(f"{target.name}{number}.data") for number in numbers)
    return next(path for path in names if not os.path.lexists(path))


def _read(path: Path) -> bytes:
    given = f"{quoted(path)}"
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise ModelError(f"{given} is {kind}, expected an ONNX file")
            if status.st_size == 0:
                raise ModelError(f"{given} is empty, expected an ONNX file")
            if status.st_size > MAX_PROTO_BYTES:
                raise ModelError(
                    f"{given} is larger than 2 GiB, which no ONNX file can be; export with external data instead"
                )
            return file.read()
    except FileNotFoundError:
        raise ModelError(f"{given} does not exist, expected an ONNX file") from None
    except IsADirectoryError:
        raise ModelError(f"{given} is a folder, expected an ONNX file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{given} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _parse(data: bytes, given: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{given} is empty, expected an ONNX model")
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError):
        raise ModelError(f"{given} {why_unreadable(data)}") from None
    if not proto.HasField("graph") or not (proto.ir_version or proto.opset_import or proto.graph.node):
        raise ModelError(f"{given} {why_unreadable(data)}")
    return proto


# No exporter nests deeper than this; the parser is recursive.
_MAX_TEXT_NESTING = 100


def _parse_text(data: bytes, given: str) -> onnx.ModelProto:
    depth = deepest = 0
    for byte in data:
        if byte in b"([{<":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b")]}>":
            depth -= 1
    if deepest > _MAX_TEXT_NESTING:
        raise ModelError(f"{given} nests {deepest} levels deep, expected at most {_MAX_TEXT_NESTING}")
    try:
        return onnx.parser.parse_model(data.decode())
    except (onnx.parser.ParseError, UnicodeDecodeError) as error:
        reason = printable(" ".join(str(error).split())[:200])
        raise ModelError(f"{given} is not a model in ONNX's textual syntax: {reason}") from None


def _from_proto(source: onnx.ModelProto) -> Model:
    try:
        data = source.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        return _from_large_proto(source)
    return _finish(_parse(data, "the ModelProto"), hashlib.sha256(data), None)


def _from_large_proto(source: onnx.ModelProto) -> Model:
    """Load a ModelProto that is too large for one message, part by part."""
    digest = hashlib.sha256()
    try:
        proto = protos.copy_into(onnx.ModelProto(), source)
        for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
            digest.update(part.SerializeToString(deterministic=True))
        for tensor in proto.graph.initializer:
            digest.update(tensor.raw_data)
    except (DecodeError, EncodeError, ValueError, RecursionError):
        raise ModelError("the ModelProto cannot be copied: it is nested too deeply, or too large") from None
    return _finish(proto, digest, None)


def _finish(proto: onnx.ModelProto, digest: Any, path: Path | None) -> Model:
    del proto.training_info[:]
    aside = read_external_data(proto, path.parent if path else None, digest.update)
    aside |= detach_data(proto)
    _check_text(proto)
    _check_versions(proto)
    _spell_default_domain(proto)
    check_functions(proto)
    free_dimensions(proto)
    check(proto)
    proto = complete_shapes(proto)
    attach_data(proto, aside)
    while inline_decided_branches(proto):
        proto = _with_shapes(proto)
    if separate_scores(proto):
        proto = _with_shapes(proto)
    opsets = ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in proto.opset_import)
    logger.info("model %s: %d nodes, opset %s", path or proto.graph.name, len(proto.graph.node), opsets)
    return Model(proto, digest.hexdigest(), path.stem if path else proto.graph.name, path)


def _with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    aside = detach_data(proto)
    proto = complete_shapes(proto)
    attach_data(proto, aside)
    return proto


def _check_text(message: Any) -> None:
    """Refuse text that is not UTF-8, which protobuf returns as bytes that later code cannot handle."""
    for field, value in message.ListFields():
        items = value if field.is_repeated else (value,)
        if field.type == field.TYPE_MESSAGE:
            for item in items:
                # Where a message is ASCII, so is all text in it; that is found out quickly.
                if not isinstance(item, onnx.NodeProto) or not item.SerializePartialToString().isascii():
                    _check_text(item)
        elif field.type == field.TYPE_STRING:
            for item in items:
                if isinstance(item, bytes):
                    raise ModelError(
                        f"the model's field '{field.name}' holds {item[:40]!r}, which is not UTF-8; export it again"
                    )


def _check_versions(proto: onnx.ModelProto) -> None:
    # Before version 3 of the file format, models did not state the version of their operators.
    if not OLDEST_FORMAT <= proto.ir_version <= onnx.IR_VERSION:
        older = proto.ir_version < OLDEST_FORMAT
        raise ModelError(
            f"the model has IR version {proto.ir_version}, supported are {OLDEST_FORMAT} to {onnx.IR_VERSION}; "
            f"{'export it again' if older else 'export it with an older opset or upgrade onnx'}"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(
                f"the model uses opset {opset.version}, supported are 1 to {newest}; "
                f"export it with an older opset or upgrade onnx"
            )


def _spell_default_domain(proto: onnx.ModelProto) -> None:
    """Write the default operator domain as the empty string everywhere; ``ai.onnx`` is a synonym."""
    for owner in (proto, *proto.functions):
        kept: dict[str, int] = {}
        for opset in owner.opset_import:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            if kept.setdefault(domain, opset.version) != opset.version:
                raise ModelError(
                    f"the model imports versions {kept[domain]} and {opset.version} of the operators of domain "
                    f"{quoted(domain or 'ai.onnx')}, expected one; export it again"
                )
        del owner.opset_import[:]
        owner.opset_import.extend(onnx.helper.make_opsetid(*item) for item in kept.items())
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in protos.nested(nodes):
            if node.domain == "ai.onnx":
                node.domain = ""
