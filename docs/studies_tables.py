"""Insert the studies' tables and pictures into studies.md and families.md: python docs/studies_tables.py FOLDER.

A study writes ``FOLDER/<folder>/<name>.md`` and ``.png``; the page contains ``<!-- table <folder>/<name> -->`` ...
``<!-- end -->``, and shows ``pictures/studies-<folder>-<name>.png``. What the folder lacks stays as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PIL import Image

PAGES = tuple(Path(__file__).with_name(f"{name}.md") for name in ("studies", "families"))
#: A few colors suffice for lines and text, and keep pictures small.
COLORS = 96


def fill(page: Path, folder: Path) -> None:
    """Replace the tables between the marks on a page, and the pictures that it shows."""

    def table(found: re.Match[str]) -> str:
        path = folder / f"{found[1]}.md"
        if not path.exists():
            return found[0]
        return f"<!-- table {found[1]} -->\n\n{path.read_text(encoding='utf-8')}\n<!-- end -->"

    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- table (\S+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")
    for shown in re.findall(r"\(pictures/(studies-\S+)\.png\)", text):
        _, group, name = shown.split("-", 2)
        path = folder / group / f"{name}.png"
        if not path.exists():
            continue
        with Image.open(path) as image:
            image.convert("RGB").quantize(COLORS).save(page.parent / "pictures" / f"{shown}.png", optimize=True)


if __name__ == "__main__":
    for each in PAGES:
        fill(each, Path(sys.argv[1]))
