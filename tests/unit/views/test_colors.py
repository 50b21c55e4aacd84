"""Colors of figures for three kinds of color blindness, simulated by Machado et al. (2009), and in gray."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from onnxinfo.views.diverging import DIVERGING, color_map
from onnxinfo.views.panels import run_style
from onnxinfo.views.style import COLORS, SEQUENTIAL, THEMES, UNPROVEN

#: What remains of linear RGB without one kind of cones, and of it in gray.
SEEN = {
    "without red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "without green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "without blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "in gray": [[0.2126, 0.7152, 0.0722]] * 3,
}
COLORED = [name for name in SEEN if name != "in gray"]
#: Difference of two CIELAB colors that is seen at a glance; 2.3 is just noticeable.
CLEAR = 8.0


def linear(colors):
    values = np.asarray(colors, float)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(colors, kind):
    """CIELAB coordinates of sRGB colors, (color, 3), as somebody sees them."""
    seen = np.clip(linear(colors) @ np.array(SEEN[kind]).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    relative = seen @ to_xyz.T / (to_xyz @ np.ones(3))
    cube = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    x, y, z = cube.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("kind", COLORED)
def test_colors_of_runs_are_told_apart(kind):
    seen = lab([to_rgb(color) for color in COLORS], kind)
    worst = min(np.linalg.norm(one - other) for one, other in combinations(seen, 2))
    assert worst > CLEAR


def test_runs_are_told_apart_without_color():
    looks = [run_style(number)[1:] for number in range(20)]
    assert len(set(looks)) == 20


@pytest.mark.parametrize("name", [SEQUENTIAL, DIVERGING])
@pytest.mark.parametrize("kind", SEEN)
def test_lightness_of_maps_rises_evenly(kind, name):
    lightness = lab(color_map(name)(np.linspace(0, 1, 65))[:, :3], kind)[:, 0]
    steps = np.diff(lightness)
    assert steps.min() > 0
    assert steps.max() < 2.5 * steps.mean()


@pytest.mark.parametrize("kind", SEEN)
def test_signs_of_differences_are_told_apart(kind):
    """Also in gray: what is lighter than zero is higher, and what is darker is lower."""
    shades = np.linspace(0.05, 0.4, 9)
    (zero,) = lab([color_map(DIVERGING)(0.5)[:3]], kind)
    low, high = (lab(color_map(DIVERGING)(each)[:, :3], kind) for each in (shades, 1 - shades))
    assert (zero[0] - low[:, 0]).min() > CLEAR / 2
    assert (high[:, 0] - zero[0]).min() > CLEAR / 2
    assert (high[:, 0] - low[:, 0]).min() > CLEAR


def test_zero_of_a_difference_has_no_color():
    colors = lab(color_map(DIVERGING)(np.linspace(0, 1, 65))[:, :3], "without green cones")
    true = color_map(DIVERGING)(0.5)[:3]
    assert np.ptp(true) < 0.01
    chroma = np.hypot(colors[:, 1], colors[:, 2])
    assert chroma.argmin() == 32
    assert chroma[[8, 56]].min() > 2 * CLEAR


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_contrast(theme):
    """The ratio that WCAG 2 asks of small text is 4.5; of marks 3."""
    colors = THEMES[theme]

    def luminance(color):
        return float(linear(to_rgb(color)) @ [0.2126, 0.7152, 0.0722])

    def contrast(one):
        low, high = sorted([luminance(one), luminance(colors.paper)])
        return (high + 0.05) / (low + 0.05)

    assert min(contrast(colors.ink), contrast(colors.muted)) > 4.5
    assert contrast(UNPROVEN) > 3
