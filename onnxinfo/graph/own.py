"""A model's own graph, as the user has it: without what loading rewrites, and with its external data where they are."""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from ..errors import ModelError, OnnxinfoError, UsageError
from ..outputs import Output
from ..replacing import is_stream, replacing
from ..text import quoted
from . import protos
from .external_data import external_tensors, inside, read_tensor
from .model import Model, ModelSource, load, parse_file, write_model


@dataclass(frozen=True)
class OwnGraph:
    """A model as it was given, of which :func:`.model.load` makes a checked one.

    Attributes
    ----------
    proto
        A copy of the message, whose external tensors refer to their files.
    folder
        Folder of these files; None if there are none.
    """

    proto: onnx.ModelProto
    folder: Path | None

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Nodes of the main graph, each followed by those of its branches if it is an ``If``."""
        yield from _with_branches(self.proto.graph)

    def makers(self) -> dict[str, tuple[int, int]]:
        """Position of the node that computes a tensor, in :meth:`nodes`, and of the tensor among the node's outputs.

        A tensor of a branch is only found if no other one of the model has its name.
        """
        found: dict[str, tuple[int, int]] = {}
        again: set[str] = set()
        for i, node in enumerate(self.nodes()):
            for at, tensor in enumerate(node.output):
                if tensor in found:
                    again.add(tensor)
                elif tensor:
                    found[tensor] = i, at
        main = {tensor for node in self.proto.graph.node for tensor in node.output}
        return {tensor: place for tensor, place in found.items() if tensor in main or tensor not in again}

    def digest(self) -> str:
        """Digest of the model's content, wherever its weights are stored."""
        light = protos.copy_into(onnx.ModelProto(), self.proto, ("graph",))
        protos.copy_into(light.graph, self.proto.graph, ("initializer",))
        found = hashlib.sha256(light.SerializeToString(deterministic=True))
        weights = ("raw_data", "external_data", "data_location")
        for tensor in self.proto.graph.initializer:
            head = protos.copy_into(onnx.TensorProto(), tensor, weights)
            found.update(head.SerializeToString(deterministic=True))
            found.update(tensor.raw_data)
        for tensor in external_tensors(self.proto):
            assert self.folder is not None
            found.update(read_tensor(tensor, self.folder))
        return found.hexdigest()

    def write(self, output: Output) -> None:
        """Write the model to a claimed file; its external data are copied if that is in another folder.

        Raises
        ------
        UsageError
            The folder has other files in the place of the external data.
        ModelError
            A file cannot be written.
        """
        outside = [*external_tensors(self.proto)]
        if not outside or self.folder is None:
            write_model(self.proto, output)
            return
        if is_stream(output.path):
            raise ModelError(
                f"{quoted(output.path)} cannot be written: the weights are in files beside the model; name a file"
            )
        self._write_with_data(output, self._missing(outside, self.folder, output))

    @staticmethod
    def _missing(outside: list[onnx.TensorProto], folder: Path, output: Output) -> dict[Path, Path]:
        """Files with external data that the folder of the output lacks, by where they belong."""
        found: dict[Path, Path] = {}
        for tensor in outside:
            source, target = (inside(tensor, each) for each in (folder, output.path.parent))
            if target == output.path:
                raise UsageError(f"{quoted(output.path)} is the place of the model's external data; name another file")
            if target.exists() and not (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
                raise UsageError(
                    f"{quoted(target)} is not the model's external data, which have this name; choose another folder"
                )
            if not target.exists():
                found[target] = source
        return found

    def _write_with_data(self, output: Output, missing: dict[Path, Path]) -> None:
        written: list[Path] = []
        try:
            for target, source in missing.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target, ModelError) as part:
                    shutil.copyfile(source, part)
                written.append(target)
            with output.writing() as part:
                part.write_bytes(self.proto.SerializeToString())
        except BaseException as error:
            for target in written:
                target.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise ModelError(f"{quoted(output.path)} cannot be written: {error.strerror or error}") from None
            raise


def own_graph(source: ModelSource, loaded: Model) -> OwnGraph:
    """Return a model as it was given.

    Parameters
    ----------
    source
        What was given. Of a loaded model, the file is read again, if it still is the same; else its message is all
        there is.
    loaded
        The same, loaded.
    """
    if isinstance(source, onnx.ModelProto):
        return OwnGraph(_copied(source), None)
    if isinstance(source, bytes):
        return OwnGraph(onnx.ModelProto.FromString(source), None)
    if loaded.path is not None and (source is not loaded or _is_unchanged(loaded)):
        return OwnGraph(parse_file(loaded.path), loaded.path.parent)
    return OwnGraph(_copied(loaded.proto), None)


def _copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    try:
        found.CopyFrom(proto)
    except (DecodeError, EncodeError, ValueError):
        # Too large for one message.
        found = protos.copy_into(onnx.ModelProto(), proto)
    return found


def _is_unchanged(model: Model) -> bool:
    assert model.path is not None
    with suppress(OnnxinfoError):
        return load(model.path).sha256 == model.sha256
    return False


def _with_branches(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        if node.op_type == "If" and not node.domain:
            for body in protos.bodies(node):
                yield from _with_branches(body)
