"""SVG files with their text as text: fonts embedded, so that it looks the same anywhere, and a description."""

from __future__ import annotations

import base64
import functools
import html
import io
import re
from pathlib import Path

_OPEN = re.compile(r"<svg [^>]*>")
_TEXT = re.compile(r"<(?:text|tspan)\b[^>]*>([^<]+)<")
_STYLED = re.compile(r'<text style="([^"]*)"[^>]*>(.*?)</text>', re.DOTALL)
_BOLD = re.compile(r"font: (?:bold|[6-9]00)|font-weight: ?(?:bold|[6-9]00)")
#: Files of the font, by weight.
_FONTS = {"normal": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf"}


def finished_svg(text: str, title: str, alt: str) -> str:
    """Return an SVG file of matplotlib with its title, its description and the parts of the font that it uses.

    Parameters
    ----------
    text
        The file, with text as ``<text>`` elements.
    title, alt
        Title and description; empty: none.
    """
    opening = _OPEN.search(text)
    if opening is None:
        return text
    start = opening.group()[:-1] + ' role="img">'
    for name, content in (("title", title), ("desc", alt)):
        if content:
            start += f"\n <{name}>{html.escape(content, quote=False)}</{name}>"
    start += _embedded(text)
    return text[: opening.start()] + start + text[opening.end() :]


def _embedded(text: str) -> str:
    """Return a style sheet with the font's glyphs that a file uses."""
    used: dict[str, set[str]] = {}
    for style, content in _STYLED.findall(text):
        words = "".join(_TEXT.findall(f"<text>{content}<")) if "<" in content else content
        used.setdefault("bold" if _BOLD.search(style) else "normal", set()).update(html.unescape(words))
    faces = [
        f"@font-face {{ font-family: 'DejaVu Sans'; font-weight: {weight}; "
        f"src: url(data:font/woff;base64,{_subset(weight, ''.join(sorted(characters)))}) format('woff'); }}"
        for weight, characters in sorted(used.items())
    ]
    return f'\n <style type="text/css">{" ".join(faces)}</style>' if faces else ""


@functools.lru_cache(maxsize=32)
def _subset(weight: str, characters: str) -> str:
    """Return some glyphs of the font as a WOFF file in base 64."""
    import matplotlib
    from fontTools import subset, ttLib

    options = subset.Options(flavor="woff", hinting=False, layout_features=[], notdef_outline=True, name_IDs=[])
    options.drop_tables += ["FFTM"]
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", _FONTS[weight])
    with ttLib.TTFont(path, recalcTimestamp=False) as font:
        chosen = subset.Subsetter(options)
        chosen.populate(text=characters)
        chosen.subset(font)
        font.flavor = "woff"
        made = io.BytesIO()
        font.save(made)
    return base64.b64encode(made.getvalue()).decode()
