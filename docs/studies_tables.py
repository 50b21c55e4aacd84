"""Puts the studies' tables and pictures into studies.md: python docs/studies_tables.py FOLDER.

A study wrote ``FOLDER/<folder>/<name>.md`` and ``.png``; the page has ``<!-- table <folder>/<name> -->`` ... ``<!-- end
-->``, and shows ``pictures/studies-<folder>-<name>.png``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PIL import Image

PAGE = Path(__file__).with_name("studies.md")
#: Few colors keep pictures small, and are enough for lines and text.
COLORS = 96


def fill(folder: Path) -> None:
    """Replace what stands between the marks, and the pictures that the page shows."""

    def table(found: re.Match[str]) -> str:
        text = (folder / f"{found[1]}.md").read_text(encoding="utf-8")
        return f"<!-- table {found[1]} -->\n\n{text}\n<!-- end -->"

    text = PAGE.read_text(encoding="utf-8")
    text = re.sub(r"<!-- table (\S+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
    for shown in re.findall(r"\(pictures/(studies-\S+)\.png\)", text):
        _, group, name = shown.split("-", 2)
        with Image.open(folder / group / f"{name}.png") as image:
            image.convert("RGB").quantize(COLORS).save(PAGE.parent / "pictures" / f"{shown}.png", optimize=True)


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
