"""Features for any number of inputs, however the graph treats its batch axis."""

import pytest
import torch
from torch import fx, nn

from onnxinfo import ConversionError
from onnxinfo.metrics.network import Network


class Plain(nn.Module):
    def forward(self, x):
        hidden = torch.relu(x @ torch.arange(12.0).reshape(4, 3))
        return hidden, hidden.sum(1, keepdim=True)


class BakedBatch(nn.Module):
    """A batch size of one in a reshape, as exporters leave it."""

    def forward(self, x):
        return (torch.relu(x).reshape(1, 4) * 2,)


class BatchSecond(nn.Module):
    def forward(self, x):
        return (x.transpose(0, 1).unsqueeze(0) * 3,)


class Merged(nn.Module):
    """Mixes samples of a batch unless they are evaluated one by one."""

    def forward(self, x):
        return (x - x.mean(0, keepdim=True) + x.sum(),)


def network(module, batch=None):
    return Network(fx.symbolic_trace(module), batch=batch)


X = torch.arange(20.0).reshape(5, 4) / 7 - 1
ROWS = torch.arange(5)


@pytest.mark.parametrize(
    ("module", "batch", "mode"),
    [(Plain(), None, "batch"), (BakedBatch(), 1, "vmap"), (BatchSecond(), None, "batch"), (Merged(), None, "vmap")],
)
def test_the_right_way_to_batch_is_found(module, batch, mode):
    net = network(module, batch)
    assert net.select_batching(X[:2], ROWS[:2]) == mode
    features = net(X, ROWS)
    for i in range(5):
        alone = fx.symbolic_trace(module)(X[i : i + 1])
        for feature, expected in zip(features, alone, strict=True):
            assert torch.allclose(feature[i], expected.flatten(), atol=1e-6)


class RowsFirst(nn.Module):
    """An image's rows before the samples, as in recurrent layers, with as many rows as there may be samples."""

    def forward(self, x):
        return torch.relu(x.transpose(0, 1)), x.sum(1)


@pytest.mark.parametrize("rows", [6, 7])
@pytest.mark.parametrize("samples", [2, 3, 6, 7, 14])
def test_rows_are_not_taken_for_samples(rows, samples):
    x = torch.randn(14, rows, 3, generator=torch.Generator().manual_seed(0))
    net = network(RowsFirst())
    assert net.select_batching(x[:2], torch.arange(2)) == "batch"
    for part, expected in ((0, torch.relu(x[:samples])), (1, x[:samples].sum(1))):
        (feature,) = net.part([part])(x[:samples], torch.arange(samples))
        assert torch.equal(feature, expected.flatten(1))


@pytest.mark.parametrize("batch", [2, 3])
def test_rows_are_not_taken_for_samples_of_a_fixed_batch(batch):
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.relu(x.reshape(batch, 6, 3).transpose(0, 1)), x.reshape(batch, 18)

    x = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    net = network(Fixed(), batch=batch)
    net.select_batching(x[:2], torch.arange(2))
    features = net(x, torch.arange(5))
    assert torch.equal(features[0], torch.relu(x).flatten(1))
    assert torch.equal(features[1], x.flatten(1))


def test_a_batch_of_four_is_served_sample_by_sample():
    class Four(nn.Module):
        def forward(self, x):
            return (torch.relu(x).reshape(4, 2, 2).sum(2),)

    net = network(Four(), batch=4)
    net.select_batching(X[:2], ROWS[:2])
    (feature,) = net(X, ROWS)
    assert torch.allclose(feature, torch.relu(X).reshape(5, 2, 2).sum(2))


def test_parts_hold_only_what_they_need():
    net = network(Plain())
    part = net.part([0])
    assert len(part.module.graph.nodes) < len(net.module.graph.nodes)
    assert torch.equal(part(X, ROWS)[0], net(X, ROWS)[0])
    assert net.part([0]) is part


def test_context_follows_the_sample():
    class Masked(nn.Module):
        def forward(self, x, mask):
            return (x * mask,)

    mask = torch.tensor([[1.0], [0.0], [2.0], [1.0], [3.0]])
    net = Network(fx.symbolic_trace(Masked()), [mask])
    rows = torch.tensor([4, 1])
    assert torch.equal(net(X[rows], rows)[0], X[rows] * mask[rows])


def test_a_graph_that_cannot_run_is_a_conversion_error():
    class Broken(nn.Module):
        def forward(self, x):
            return (x.reshape(7, 7),)

    with pytest.raises(ConversionError, match="does not run"):
        network(Broken()).select_batching(X[:2], ROWS[:2])


# Graphs that mix samples of a batch: each sample's own result, or an error.


class Centered(nn.Module):
    """Subtracts the batch mean from a part of each sample."""

    def forward(self, x):
        return (x + torch.tanh(3 * (x - x.mean(0, keepdim=True))),)


class SharedScale(nn.Module):
    """Scales by the largest value of the batch, like dynamic quantization."""

    def forward(self, x):
        return (x * 4 / x.abs().amax(),)


class BatchSoftmax(nn.Module):
    def forward(self, x):
        return (torch.softmax(4 * x, 0) + x,)


class Sorted(nn.Module):
    """Sorts each unit's values across the batch: in values and gradients, with a constant that hides the values."""

    def forward(self, x):
        return (x.sort(0).values + 1e5,)


class Pairs(nn.Module):
    """Adds neighbors, in batches of even size."""

    def forward(self, x):
        return ((x.reshape(-1, 2, x.shape[1]) + x.reshape(-1, 2, x.shape[1]).flip(1)).reshape(x.shape),)


class Normalized(nn.Module):
    """Batch normalization with the statistics of the batch."""

    def forward(self, x):
        return (nn.functional.batch_norm(x.unsqueeze(-1) * torch.arange(3.0), None, None, training=True) + x.mean(),)


class CountsSamples(nn.Module):
    """Works only for more than two samples."""

    def forward(self, x):
        return (x * (1 + (torch.ones_like(x[:, :1]).sum() > 2)),)


MIXED = [Centered, SharedScale, BatchSoftmax, Sorted, Normalized, CountsSamples, Merged]


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("module", MIXED)
def test_samples_that_influence_each_other_are_evaluated_alone(module, same, rounded, caplog):
    """Mixing is detected even with two equal samples or a single one, because their noisy copies differ."""
    net = network(module())
    x = X[[0, 0]] if same else X[:2]
    assert net.select_batching(x, ROWS[:2], torch.ones(4), rounded=rounded) in ("vmap", "loop")
    assert "influence each other" in caplog.text
    for feature, alone in zip(net(X, ROWS)[0], X, strict=True):
        assert torch.allclose(feature, module()(alone[None])[0].flatten(), atol=1e-5)


class Stepped(nn.Module):
    """Rounds; in a batch, one of the values is rounded to the other side of a step."""

    def forward(self, x):
        rounded = x + ((20 * x).round() / 20 - x).detach()
        return (rounded + 0.05 * (x.shape[0] > 1) * (rounded.detach() > 0.2),)


def test_a_step_of_rounding_is_no_influence(caplog):
    """Sums in another order may be rounded to the other side of a step."""
    assert network(Stepped()).select_batching(X[:2], ROWS[:2], torch.ones(4), rounded=True) == "batch"
    assert "influence each other" not in caplog.text
    network(Stepped()).select_batching(X[:2], ROWS[:2], torch.ones(4))
    assert "influence each other" in caplog.text


def test_a_graph_that_pairs_samples_is_no_batch():
    net = network(Pairs())
    with pytest.raises(ConversionError, match="does not run"):
        net.select_batching(X[:2], ROWS[:2])


@pytest.mark.parametrize("module", [Centered, SharedScale, BatchSoftmax])
def test_a_declared_batch_of_one_is_no_proof(module):
    net = network(module(), batch=1)
    assert net.select_batching(X[[0, 0]], ROWS[[0, 0]]) == "vmap"
    feature = net(X, ROWS)[0]
    assert torch.allclose(feature[3], module()(X[3:4])[0].flatten())


@pytest.mark.parametrize("module", [Centered, SharedScale, BatchSoftmax])
@pytest.mark.parametrize("batch", [2, 3])
def test_a_declared_batch_whose_samples_influence_each_other_is_refused(module, batch):
    with pytest.raises(ConversionError, match=f"influence each other, and the model is made for {batch} at once"):
        network(module(), batch=batch).select_batching(X[:2], ROWS[:2])


def test_gradients_that_differ_alone_are_noticed(caplog):
    """Equal values, but with a gradient that flows to the neighbors."""

    class Detour(nn.Module):
        def forward(self, x):
            return (x + x.sum(0) - x.sum(0).detach(),)

    assert network(Detour()).select_batching(X[:2], ROWS[:2]) == "vmap"
    assert "influence each other" in caplog.text


class Kinked(nn.Module):
    """In a batch, an activation is on the other side of its kink: its gradient changes by 5 %, its value hardly."""

    def forward(self, x):
        moved = torch.tensor([0.05, 0, 0, 0]) * (x - x.detach())
        return (x + moved * (x.shape[0] > 1),)


def test_a_kink_is_no_influence(caplog):
    """Sums in another order may have another sign, to which an activation has another slope."""
    assert network(Kinked()).select_batching(X[:2], ROWS[:2], torch.ones(4)) == "batch"
    assert not caplog.text


class SlightDetour(nn.Module):
    """Equal values, with a gradient of 0.5 % of its own that flows to the neighbors."""

    def forward(self, x):
        return (x + 0.005 * (x.sum(0) - x.sum(0).detach()),)


class SlopeOfNeighbors(nn.Module):
    """Equal values, with slopes that neighbors change by some percent; no gradient flows to them."""

    def forward(self, x):
        return (x + 0.1 * (x - x.detach()) * torch.tanh(x.mean(0) - x).detach(),)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("module", [SlightDetour, SlopeOfNeighbors])
def test_an_influence_on_gradients_is_no_kink(module, rounded, caplog):
    assert network(module()).select_batching(X[:2], ROWS[:2], torch.ones(4), rounded=rounded) == "vmap"
    assert "influence each other" in caplog.text


def test_random_numbers_in_a_graph_are_refused():
    """Under any seed, though two evaluations of eight random bits agree in one of 256."""

    class Noisy(nn.Module):
        def forward(self, x):
            return (nn.functional.dropout(x, 0.5, training=True),)

    for seed in range(400):
        torch.manual_seed(seed)
        with pytest.raises(ConversionError, match="other values each time"):
            network(Noisy()).select_batching(X[:2], ROWS[:2])


@pytest.mark.parametrize("module", [Plain(), BatchSecond()])
def test_nothing_is_said_of_samples_that_do_not_influence_each_other(module, caplog):
    network(module).select_batching(X[:2], ROWS[:2])
    assert not caplog.text
