"""The studies' attack on classifiers whose nearest images of another class are known."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from onnxinfo.models.studies import attack, verdicts
from onnxinfo.models.studies.two_level import TOO_FEW

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32).reshape(4, 2, 1, 1)


def linear(weights, biases):
    weights, biases = torch.tensor(weights), torch.tensor(biases)
    return lambda x: x.flatten(1) @ weights.T + biases


def known(scores, images):
    return attack.Known(images, scores(torch.from_numpy(images)).argmax(1).numpy())


def test_a_linear_classifier_is_left_by_the_shortest_way():
    scores = linear([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]], [0.0, -20.0, -7.0])
    x = CORNERS[0]
    found = attack.distances(scores, x, known(scores, 100 * CORNERS), [1, 2])
    # Class 2 must beat class 0, x >= 7, and class 1, 2 x + 4 y <= 13: y is below 0, where no pixels are.
    assert found[0] == pytest.approx(4, rel=0.01)
    assert found[1] == math.inf


def test_perturbed_images_stay_in_the_range_of_pixels():
    scores = linear([[0.0, 0.0], [2.0, 1.0]], [0.0, -2.999])
    (found,) = attack.distances(scores, CORNERS[0], known(scores, CORNERS), [1])
    # Without the range, (1.2, 0.6) is nearest.
    assert found == pytest.approx(math.sqrt(2), rel=0.01)


def test_a_class_without_slopes_is_reached_from_a_known_image():
    def scores(x):
        first = x.flatten(1)[:, :1]
        return torch.cat([(first <= 0.5).float(), (first > 0.5).float(), torch.full_like(first, -1)], 1) + 0 * first

    found = attack.distances(scores, CORNERS[0], known(scores, CORNERS), [0, 1, 2])
    assert found == pytest.approx([0, 0.5, math.inf], abs=1e-3)


def test_a_verdict_names_the_images_that_half_of_the_effect_needs():
    values = np.array([0.1, -0.1, 0.3, 0.1, math.nan])
    row = verdicts.verdict_row("it rises", 0.2, verdicts.differences(values, 1))
    # sd = 0.163, (2 sd / 0.1)^2 = 10.7
    assert row == {
        "claim": "it rises",
        "effect": "0.200",
        "measured": "+0.100 ± 0.082 (4, 1 unproven)",
        "sd of images": "0.163",
        "images needed": 11,
        "verdict": "cannot be decided here, would need 11",
    }
    # Half of an effect of 0.6 needs 2 images, but 0.150 ± 0.082 lies in the middle: 4 (2 * 0.082 / 0.15)^2 = 4.7.
    near = verdicts.verdict_row("it rises", 0.6, verdicts.differences(np.array([0.2, 0.0, 0.4, 0.2]) - 0.05, 0))
    assert near["verdict"] == "cannot be decided here, close to the border: would need 5"
    assert verdicts.verdict_row("it falls", 0.2, verdicts.differences(values - 1, 0), -1)["verdict"] == "seen"
    assert verdicts.verdict_row("it rises", 0.2, verdicts.differences(values - 1, 0))["verdict"].startswith("refuted")
    for few in (1, 2):
        row = verdicts.verdict_row("it rises", 0.2, verdicts.differences(values[:few], 0))
        assert (row["sd of images"], row["images needed"], row["verdict"]) == ("", "", TOO_FEW)
