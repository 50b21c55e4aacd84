"""Invertible networks: exact answers for SID and RU, and the committed table against a rerun."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import onnxinfo
from onnxinfo.archive.means import unproven

pytest.importorskip("sklearn")
import invertible
import invertible_networks
from invertible_networks import BY_FORMULA, INVERTIBLE, KINDS, UNITS, Classifier, Rotation, export

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "invertible.csv"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def shaken(kind, blocks=2):
    """Return an untrained network with random weights also in those that start at 0."""
    network = Classifier(KINDS[kind], blocks)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.requires_grad_(False)


def sid(model, x, layers, folder):
    onnxinfo.analyze(
        model,
        x.numpy(),
        folder / "sid.h5",
        layers=layers,
        normalize_by="sample",
        mean=0,
        std=1,
        sigma_max=1e9,
        threads=1,
    )
    with onnxinfo.open(folder / "sid.h5") as archive:
        (run,) = archive.values()
        assert not unproven(run.values("sid")).any()
        return run.values("sid")["value"], np.stack([run.maps("sid", i) for i in range(len(run.layers))])


def test_an_orthogonal_flow_stays_at_the_floor(tmp_path):
    network = Classifier(Rotation, 3).requires_grad_(False)
    values, maps = sid(export(network), torch.randn(2, 1, 8, 8), ["block_1", "block_2", "block_3"], tmp_path)
    np.testing.assert_allclose(values, invertible.FLOOR, atol=1e-5)
    np.testing.assert_allclose(maps, invertible.FLOOR, atol=1e-4)  # stored with less precision


def test_a_layer_that_loses_nothing_may_discard_and_one_that_loses_most_may_not(tmp_path):
    """Scaling each pixel can be undone; adding up all pixels cannot."""

    class Scaling(torch.nn.Module):
        factors = torch.logspace(0, 2, UNITS).reshape(1, 4, 4, 4)

        def forward(self, x):
            return x * self.factors

    network = Classifier(Scaling, 1).requires_grad_(False)
    network.head.weight.copy_(1 / Scaling.factors.reshape(1, -1).expand(10, -1))
    values, _ = sid(export(network), torch.randn(2, 1, 8, 8), ["block_1", "logits"], tmp_path)
    squares = Scaling.factors.double().square()
    expected = invertible.FLOOR + 0.5 * float(squares.mean().log() - squares.log().mean())
    assert expected > invertible.FLOOR + 1
    np.testing.assert_allclose(values[0], expected, atol=1e-4)
    np.testing.assert_allclose(values[1], invertible.FLOOR, atol=1e-4)


@pytest.mark.parametrize("kind", INVERTIBLE)
def test_inverses_undo_their_networks(kind):
    network, x = shaken(kind), torch.randn(4, 1, 8, 8)
    for depth in (1, 2):
        feature = network.feature(x, depth)
        assert not torch.allclose(feature, x.flatten(1), atol=0.1)
        assert invertible.inverse_error(network, x, depth) < 1e-5
        assert invertible.local(network, x, depth)["rank"] == UNITS


def test_blocks_of_an_i_resnet_are_contractions():
    network = shaken("i-ResNet")
    for parameter in network.parameters():
        parameter.data *= 20
    for block in network.blocks:
        jacobian = torch.func.jacrev(lambda x, block=block: block.branch(x[None])[0])(torch.randn(4, 4, 4))
        norm = torch.linalg.matrix_norm(jacobian.reshape(UNITS, UNITS), 2)
        assert 0.1 < norm <= invertible_networks.CONTRACTION + 1e-5


def test_full_sid_bounds_sid_and_is_equal_if_columns_are_orthogonal(tmp_path):
    network, x = shaken("coupling"), torch.randn(2, 1, 8, 8)
    values, _ = sid(export(network), x, ["block_1", "block_2"], tmp_path)
    for depth, found in zip((1, 2), values, strict=True):
        assert found.mean() < invertible.local(network, x, depth)["full"]
    rotation = Classifier(Rotation, 1).requires_grad_(False)
    assert invertible.local(rotation, x, 1)["full"] == pytest.approx(invertible.FLOOR, abs=1e-6)


def test_ru_with_the_inverse_of_an_orthogonal_flow_is_that_of_the_noise():
    network = Classifier(Rotation, 2).requires_grad_(False)
    solution = invertible.ru_by_inverse(network, export(network), torch.randn(2, 1, 8, 8), 2)
    assert solution.certificate.converged.all()
    # The optimum is the floor; the ascent is stochastic.
    np.testing.assert_allclose(solution.entropy.mean(1), invertible.FLOOR, atol=0.01)
    noise = solution.sigma.log() + np.log(2 * np.pi * np.e) / 2
    np.testing.assert_allclose(solution.entropy.mean(1), noise.mean(1), atol=0.01)


def test_ru_with_the_inverse_is_sid(tmp_path):
    network, x = shaken("RevNet"), torch.randn(2, 1, 8, 8)
    values, _ = sid(export(network), x, ["block_2"], tmp_path)
    solution = invertible.ru_by_inverse(network, export(network), x, 2)
    np.testing.assert_allclose(solution.entropy.mean(1), values[0], atol=0.02)


def test_the_page_shows_the_committed_results():
    assert invertible.tables(RESULTS) in (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


def test_committed_results_obey_what_is_exact():
    found = pandas.read_csv(RESULTS)
    blocks = found[found.layer != "logits"]
    assert (found.sid >= invertible.FLOOR - 0.01).all()
    assert (found.sid <= found.full + 0.01).all()
    assert (blocks[blocks.network.isin(INVERTIBLE)]["rank"] == UNITS).all()
    assert (found[found.layer == "logits"]["rank"] <= 10).all()
    assert found.groupby(["network", "seed"]).size().eq(7).all()
    assert blocks[blocks.network.isin(BY_FORMULA)].ru_inverse_excess.abs().max() < 0.05


@pytest.mark.slow
def test_a_rerun_gives_the_committed_results(tmp_path):
    """One network of the table, trained and analyzed anew."""
    expected = pandas.read_csv(RESULTS)
    expected = expected[(expected.network == "ResNet") & (expected.seed == 0)].set_index("layer")
    again = pandas.DataFrame(invertible.piece("ResNet", 0, tmp_path)).set_index("layer")
    np.testing.assert_allclose(again.accuracy, expected.accuracy, atol=0.015)
    np.testing.assert_allclose(again.sid, expected.sid, atol=0.05)
    np.testing.assert_allclose(again["rank"], expected["rank"], atol=2)
    np.testing.assert_allclose(again.ru.dropna(), expected.ru.dropna(), atol=0.2)
