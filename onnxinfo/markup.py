"""Small self-contained HTML for notebooks. Text is escaped, and colors are the surrounding page's, light or dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .text import minus_signs, printable

#: Lines and shades are mixed from the color of the surrounding text, so that they fit light and dark pages.
_STYLE = (
    ".onnxinfo{font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;"
    "color:inherit;max-width:60em;border:1px solid color-mix(in srgb,currentColor 22%,transparent);"
    "border-radius:6px;padding:.5em .8em;margin:.3em 0}"
    ".onnxinfo header{margin-bottom:.3em}.onnxinfo header span{opacity:.7}"
    ".onnxinfo table{border-collapse:collapse;margin:.2em 0;color:inherit;background:none;font-size:inherit}"
    ".onnxinfo tr,.onnxinfo th,.onnxinfo td{background:none;color:inherit;border:0;text-align:left;"
    "vertical-align:top;padding:.12em 1.2em .12em 0}"
    ".onnxinfo tbody th{font-weight:normal;opacity:.7}"
    ".onnxinfo thead th{border-bottom:1px solid color-mix(in srgb,currentColor 35%,transparent)}"
    ".onnxinfo .number{text-align:right;font-variant-numeric:tabular-nums}"
    ".onnxinfo ul{margin:.2em 0;padding-left:1.3em}"
)


def card(kind: str, name: object, *parts: str) -> str:
    """Return a framed card: its kind and name as the header, then parts of :func:`facts`, :func:`grid` and the like."""
    head = f"<header><strong>{_text(kind)}</strong> <span>{_text(name)}</span></header>"
    return f'<div class="onnxinfo"><style>{_STYLE}</style>{head}{"".join(parts)}</div>'


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Return a table with a name and a value in each row; rows whose value is empty text are left out.

    Examples
    --------
    >>> facts([("layers", 2), ("labels", "")])
    '<table><tbody><tr><th>layers</th><td>2</td></tr></tbody></table>'
    """
    shown = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows if value != "")
    return f"<table><tbody>{shown}</tbody></table>"


def grid(columns: Sequence[str], rows: Iterable[Sequence[object]], most: int = 60) -> str:
    """Return a table with named columns and numbers aligned on the right; it says how many rows are left out."""
    listed = [*rows]
    numeric = [all(isinstance(row[at], int | float) for row in listed) for at in range(len(columns))]
    head = "".join(f"<th{_class(number)}>{_text(name)}</th>" for name, number in zip(columns, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{_class(number)}>{_text(cell)}</td>" for cell, number in zip(row, numeric, strict=True))
        + "</tr>"
        for row in listed[:most]
    )  # fmt: skip
    more = f"<div>and {len(listed) - most} more</div>" if len(listed) > most else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def bullets(texts: Iterable[str]) -> str:
    """Return a list with a bullet for each text."""
    return f"<ul>{''.join(f'<li>{minus_signs(_text(text))}</li>' for text in texts)}</ul>"


def _class(number: bool) -> str:
    return ' class="number"' if number else ""


def _text(value: object) -> str:
    return escape(minus_signs(f"{value:.4f}") if isinstance(value, float) else printable(value))
