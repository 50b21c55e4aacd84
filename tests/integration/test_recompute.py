"""Recomputed activations give the same numbers in less memory."""

import ctypes
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import context
from test_engines import assert_same
from torch import fx, nn

import onnxinfo
from onnxinfo.analysis.memory import for_each
from onnxinfo.metrics.budget import fit
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.recompute import peak_bytes, profile_memory
from onnxinfo.models import path

#: ``M_MMAP_THRESHOLD`` of malloc.h.
MMAP_THRESHOLD = -3
WIDTH, DEPTH = 64, 12
X, ROWS = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(3)


class Residual(nn.Module):
    """A chain whose last layers use its first ones; it has two outputs, one of them inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(self, x):
        first = x
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(x)) + (first if i % 3 == 2 else 0)
            if i == 6:
                inner = x
        return inner, x * first


def network(budget=None):
    found = Network(fx.symbolic_trace(Residual()))
    if budget is not None:
        found.recompute(budget, X, ROWS)
    return found


@pytest.mark.parametrize("budget", [0, 3000, 6000, 12000])
@pytest.mark.parametrize("part", [[0], [1], [1, 0]])
def test_values_and_gradients_are_the_same_to_the_bit(budget, part):
    found = []
    for net in (network(), network(budget)):
        leaf = X.clone().requires_grad_(True)
        features = net.part(part)(leaf, ROWS)
        # Several products of one evaluation, as probes compute them.
        products = [torch.autograd.grad(f.sin().sum(), leaf, retain_graph=True)[0] for f in features * 2]
        found.append([*features, *products])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_fewest_segments_that_fit_are_taken():
    net = network(10**9)
    assert net.segments == 1
    whole, halves = peak_bytes(net.module, 1), peak_bytes(net.module, 2)
    assert halves < whole
    assert network(whole).segments == 1
    assert network(whole - 1).segments == network(halves).segments == 2


def test_weights_do_not_count():
    profile_memory(
        module := fx.symbolic_trace(nn.Sequential(nn.Linear(WIDTH, 4096), nn.Linear(4096, 1))), [X.requires_grad_()]
    )
    assert peak_bytes(module, 1) < 4096 * WIDTH


def test_a_graph_that_is_mapped_is_evaluated_one_by_one():
    class BakedBatch(nn.Module):
        def forward(self, x):
            for _ in range(20):
                x = torch.tanh(x.reshape(1, WIDTH) * 2).sin()
            return (x,)

    net = Network(fx.symbolic_trace(BakedBatch()), batch=1)
    assert net.select_batching(X[:2], ROWS[:2]) == "vmap"
    before = net(X, ROWS)[0]
    assert fit(net, X, ROWS, 1) == 1
    assert net.mode == "loop"
    assert torch.equal(net(X, ROWS)[0], before)


def short_job():
    return SimpleNamespace(batch_size=4, device=torch.device("cpu"), network=network(), inputs=lambda block: (X, ROWS))


def test_where_memory_runs_out_for_one_input_activations_are_computed_again():
    job, done = short_job(), []

    def work(block):
        if job.network.segments == 1:
            raise MemoryError
        done.append(block)

    for_each(job, [[0, 1, 2]], work)
    assert done == [[0], [1], [2]]
    assert job.batch_size == 1


def test_memory_that_does_not_suffice_for_one_sample():
    def work(block):
        raise MemoryError

    job = short_job()
    with pytest.raises(onnxinfo.ResourceError, match="does not suffice for one sample"):
        for_each(job, [[0, 1, 2]], work)
    assert job.batch_size == 1
    assert job.network.segments > 1


class Deep(nn.Module):
    def forward(self, x):
        for _ in range(160):
            x = x.exp().sin()
        return (x,)


def memory(which):
    return int(re.search(which + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])


def gradient(net, x, rows):
    x.requires_grad_(True)
    return torch.autograd.grad(net(x, rows)[0].sum(), x)


def measure(budget, pipe):
    """Send the memory in KiB that a gradient takes beyond what is there before."""
    # Otherwise the C library keeps freed memory.
    assert ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 18)
    torch.set_num_threads(1)
    net = Network(fx.symbolic_trace(Deep()))
    x, rows = torch.zeros(1, 1 << 18), torch.zeros(1, dtype=torch.long)
    if budget:
        net.recompute(budget, x, rows)
    # What the first gradient imports does not count.
    gradient(net, torch.zeros(1, 4), rows)
    # The peak becomes what is there.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    gradient(net, x, rows)
    pipe.send(memory("VmHWM") - before)


def used(budget):
    ours, theirs = context().Pipe()
    process = context().Process(target=measure, args=(budget, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells how much memory was used")
def test_memory_that_is_used_falls():
    """160 activations of 1 MiB: all are kept, or only those of one segment and those between segments."""
    whole, less = used(0), used(38 << 20)
    assert whole > 150 << 10
    assert less < whole / 2


@pytest.mark.usefixtures("quick_workers")
def test_an_analysis_in_little_memory_gives_the_same_numbers(tmp_path):
    model, images = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
    options = {"limit": 1, "layers": ["relu_4"], "threads": 1, "compression": "lossless"}
    for name, memory, workers in (("plain", 60_000, 1), ("again", 20_000, 1), ("two", 20_000, 2)):
        onnxinfo.analyze(model, images, tmp_path / f"{name}.h5", memory_limit=memory, workers=workers, **options)
    with onnxinfo.open(tmp_path / "plain.h5") as archive:
        (run,) = archive
        assert archive[run].provenance["inputs_at_once"] == 1
    assert_same(tmp_path / "again.h5", tmp_path / "plain.h5")
    assert_same(tmp_path / "two.h5", tmp_path / "plain.h5")
