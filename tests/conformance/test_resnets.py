"""ResNets trained on CIFAR-10: the solver's guarantees on real networks. Needs data outside the repository."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from places import SHARED

import onnxinfo

IMAGES = f"{SHARED}/data/cifar10.npz:x_test"
BLOCKS = {
    13: ["/layer1/layer1.0/Relu_1_output_0", "/layer2/layer2.1/Relu_1_output_0", "/layer3/layer3.2/Relu_1_output_0"],
    20: ["relu_2", "relu_10", "relu_18"],
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (SHARED / "models").exists(), reason="set ONNXINFO_SHARED to the folder of data and models"),
]


def sid(folder, opset, name="run", model=None, **options):
    """Numbers of the three block outputs on eight images."""
    options = {"layers": BLOCKS[opset], "limit": 8, "normalize_by": "sample"} | options
    source = model or SHARED / f"models/resnet20-cifar10-opset{opset}.onnx"
    onnxinfo.analyze(source, IMAGES, folder / "out.h5", run=name, preset="imagenet", **options)
    with onnxinfo.open(folder / "out.h5") as archive:
        return archive[name].values("sid")


def test_the_solver_is_not_below_the_paper_s_optimizer(tmp_path):
    fast = sid(tmp_path, 13, "fast")
    slow = sid(tmp_path, 13, "slow", solver="reference")
    assert (fast["value"].mean(1) >= slow["value"].mean(1) - 0.01).all()
    assert np.abs(fast["ratio"].mean(1) - 1).max() < 0.01


def test_both_exporters_files_give_the_same(tmp_path):
    old, new = (sid(tmp_path, opset, f"opset{opset}")["value"].mean(1) for opset in (13, 20))
    assert np.abs(old - new).max() < 0.01


def test_rescaled_neighbors_discard_the_same(tmp_path):
    model = onnx.load(SHARED / "models/resnet20-cifar10-opset13.onnx")
    weights = {i.name: i for i in model.graph.initializer}
    # The two convolutions of a block, separated only by a ReLU.
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][1:3]
    for name, factor in [(n, 0.25) for n in first.input[1:]] + [(second.input[1], 4.0)]:
        weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name]) * np.float32(factor), name))
    plain = sid(tmp_path, 13, "plain")["value"].mean(1)
    rescaled = sid(tmp_path, 13, "rescaled", model=model)["value"].mean(1)
    assert np.abs(plain - rescaled).max() < 0.01


@pytest.mark.parametrize("depth", [20, 32, 44])
def test_every_file_converts_and_agrees_with_onnx_runtime(depth):
    from onnxinfo.torch_graph.verify import verify

    for opset in (13, 20):
        model = onnxinfo.load(SHARED / f"models/resnet{depth}-cifar10-opset{opset}.onnx")
        names = [layer.name for layer in onnxinfo.select_layers(onnxinfo.list_layers(model))]
        exposed = onnxinfo.expose(model, names)
        outputs = [output.name for output in exposed.proto.graph.output]
        x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
        verify(exposed, onnxinfo.convert(exposed, outputs), [{"x": x}], outputs)
