"""SID per token for layers of a language-model-sized decoder with random weights, within a stated memory limit.

    python benchmarks/decoder.py --parameters 1b --tokens 16 --layers 2 5 --memory 1G
    python benchmarks/decoder.py --parameters 20m --tokens 32

Built as exporters write such models: token ids as input, root-mean-square norms, rotary embedding, grouped-query
attention, gated feed-forward blocks, logits as output (opset 23); over 4 GB of weights are in a file beside the model.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import machine
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo.archive.means import layer_summary
from onnxinfo.models.studies.script import as_script

#: Width, feed-forward width, heads, key-value heads, blocks, vocabulary size.
SIZES = {"20m": (256, 1024, 8, 2, 8, 16000), "1b": (2048, 8192, 32, 8, 16, 32000)}
CONTEXT = 2048


class Writer:
    """Writes a decoder's weights to a file as its graph grows."""

    def __init__(self, file: Path) -> None:
        self.file, self.nodes, self.initializers = file, [], []
        self.random = np.random.default_rng(0)
        self.data = file.with_suffix(".data").open("wb")
        self.parameters = 0

    def weight(self, name: str, *shape: int, scale: float = 0.02) -> str:
        """Draw a weight and write it at once, so that weights are never in memory together."""
        return self.stored(name, self.random.standard_normal(shape, np.float32) * np.float32(scale))

    def stored(self, name: str, values: np.ndarray[Any, Any]) -> str:
        """Write an array beside the model."""
        values = np.ascontiguousarray(values, np.float32)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": self.data.name.rpartition("/")[2], "offset": self.data.tell(), "length": values.nbytes}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(values.data)
        self.initializers.append(tensor)
        self.parameters += values.size
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        """Add a product with a new weight."""
        return self.node("MatMul", [x, self.weight(f"{name}.weight", rows, columns)], name)

    def norm(self, x: str, name: str, width: int) -> str:
        """Add a root-mean-square norm."""
        scale = self.stored(f"{name}.weight", np.ones(width, np.float32))
        return self.node("RMSNormalization", [x, scale], name, epsilon=1e-5)


def write_decoder(file: Path, size: str, tokens: int) -> int:
    """Write a decoder; return the number of its parameters."""
    width, inner, heads, groups, blocks, vocabulary = SIZES[size]
    writer = Writer(file)
    head = width // heads
    angles = np.outer(np.arange(CONTEXT), 10000.0 ** (-np.arange(head // 2) * 2 / head))
    rotation = [writer.stored("cos", np.cos(angles)), writer.stored("sin", np.sin(angles))]
    positions = helper.make_tensor("positions", TensorProto.INT64, [1, tokens], range(tokens))
    x = writer.node("Gather", [writer.weight("embedding.weight", vocabulary, width, scale=1.0), "ids"], "embedding")
    for i in range(blocks):
        name = f"block.{i}"
        seen = writer.norm(x, f"{name}.attention_norm", width)
        query, key = (
            writer.node(
                "RotaryEmbedding",
                [writer.linear(seen, f"{name}.{part}", width, count * head), *rotation, "positions"],
                f"{name}.{part}.turned",
                num_heads=count,
            )
            for part, count in (("query", heads), ("key", groups))
        )
        value = writer.linear(seen, f"{name}.value", width, groups * head)
        mixed = writer.node(
            "Attention",
            [query, key, value],
            f"{name}.attention",
            is_causal=1,
            q_num_heads=heads,
            kv_num_heads=groups,
        )
        x = writer.node("Add", [x, writer.linear(mixed, f"{name}.output", width, width)], f"{name}.attended")
        seen = writer.norm(x, f"{name}.forward_norm", width)
        gate = writer.linear(seen, f"{name}.gate", width, inner)
        gate = writer.node("Mul", [gate, writer.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.swish")
        inside = writer.node("Mul", [gate, writer.linear(seen, f"{name}.up", width, inner)], f"{name}.inside")
        x = writer.node("Add", [x, writer.linear(inside, f"{name}.down", inner, width)], name)
    logits = writer.linear(writer.norm(x, "norm", width), "logits", width, vocabulary)
    graph = helper.make_graph(
        writer.nodes,
        "decoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, tokens])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, tokens, vocabulary])],
        [*writer.initializers, positions],
    )
    writer.data.close()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), file)
    return writer.parameters


def main() -> None:
    """Write the model, analyze it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", choices=sorted(SIZES), default="20m")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--layers", type=int, nargs="*", default=[1, 3], help="blocks to analyze")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--memory", default="1G", help="memory for activations")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, archive = Path(folder) / "decoder.onnx", Path(folder) / "out.h5"
        parameters = write_decoder(model, arguments.parameters, arguments.tokens)
        vocabulary = SIZES[arguments.parameters][-1]
        ids = np.random.default_rng(1).integers(0, vocabulary, (arguments.samples + 1, arguments.tokens))
        np.save(Path(folder) / "ids.npy", ids)
        print(f"{machine(arguments.device)}; {parameters / 1e6:,.0f} M parameters", flush=True)
        began = time.perf_counter()
        result = onnxinfo.analyze(
            model, f"{folder}/ids.npy", archive, layers=[f"block.{i}" for i in arguments.layers],
            limit=arguments.samples, memory_limit=arguments.memory, device=arguments.device, normalize_by="sample",
            progress=lambda p: print(f"{time.perf_counter() - began:6.0f} s  {p.stage} {p.done}/{p.total}"),
        )  # fmt: skip
        seconds = time.perf_counter() - began
        with onnxinfo.open(result.archive) as opened:
            run = opened[result.run]
            print(f"\n{seconds:.0f} s; batch size: {run.provenance['inputs_at_once']}")
            print("| layer | H | converged | H of each token of the first sample |\n| --- | ---: | ---: | --- |")
            values = layer_summary(run.values("sid"))
            for i, layer in enumerate(run.layers):
                tokens = run.maps("sid", i)[0].mean(-1)
                mean, share = values["value"][i], values["n_converged"][i] / max(values["n"][i], 1)
                print(f"| {layer.name} | {mean:.4f} | {share:.0%} | {' '.join(f'{h:.3f}' for h in tokens)} |")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory of the process: {used:.1f} GiB; on a GPU: {_on_gpu()}")


def _on_gpu() -> str:
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else "none"


if __name__ == "__main__":
    as_script(main)
