"""Color map of differences, whose signs differ in lightness as well as in color.

A color map that is light at zero and dark at both ends has the same gray for both signs: in gray, a layer that discards
looks like one that keeps. Here lightness rises from one end to the other, as in the maps themselves, where light is
discarded, and only zero has no color.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

#: Name of the color map.
DIVERGING = "purple-orange"
#: Lightness, chroma and hue (CIELAB, degrees) at equal distances, from the lowest value to the highest.
_ANCHORS = (
    (13.0, 56.0, 306.0),
    (34.0, 60.0, 308.0),
    (55.0, 0.0, 308.0),
    (55.0, 0.0, 68.0),
    (72.0, 58.0, 68.0),
    (90.0, 52.0, 80.0),
)
_PLACES = (0.0, 0.25, 0.5, 0.5, 0.75, 1.0)
_SHADES = 257
_TO_LINEAR_RGB = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]], dtype=np.float64
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def color_map(name: str) -> Colormap:
    """Return a color map by name: one of matplotlib's, or `DIVERGING`."""
    from matplotlib import colormaps

    return _diverging() if name == DIVERGING else colormaps[name]


@functools.cache
def _diverging() -> Colormap:
    from matplotlib.colors import ListedColormap

    at = np.linspace(0, 1, _SHADES)
    lightness, chroma, hue = (np.interp(at, _PLACES, column) for column in zip(*_ANCHORS, strict=True))
    angle = np.deg2rad(np.where(at < 0.5, _ANCHORS[0][2], hue))
    return ListedColormap(_srgb(lightness, chroma * np.cos(angle), chroma * np.sin(angle)), DIVERGING)


def _srgb(
    lightness: npt.NDArray[np.float64], a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return sRGB colors, (color, 3), of CIELAB coordinates; those that no screen has are clipped."""
    y = (lightness + 16) / 116
    cube = np.stack([y + a / 500, y, y - b / 200], axis=1)
    xyz = np.where(cube > 6 / 29, cube**3, 3 * (6 / 29) ** 2 * (cube - 4 / 29)) * _WHITE
    linear = np.clip(xyz @ _TO_LINEAR_RGB.T, 0, 1)
    encoded: npt.NDArray[np.float64] = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return encoded
