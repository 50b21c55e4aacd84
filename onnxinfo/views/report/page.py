"""The report page: data, template, style and scripts in one file."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...arguments import Names
from ...errors import UsageError
from ...kinds import HTML
from ...outputs import claim
from ...text import printable
from ..comparable import caution_of, check_comparable
from ..diverging import DIVERGING, color_map
from ..reading_runs import run_values
from ..run_values import RunValues
from ..selection import Paths, Selection
from ..style import COLORS, SEQUENTIAL
from .comparison import Comparison, comparison
from .data import MAP_BYTES, MOST_SAMPLES, json_pieces, run_data
from .graph import graph_layout, model_edges
from .units import units_data

if TYPE_CHECKING:
    from ...graph.model import Model

logger = logging.getLogger(__name__)


def report(
    path: Paths,
    output: str | os.PathLike[str] = "report.html",
    *,
    run: Names = (),
    layers: Names = (),
    metrics: Names = (),
    model: str | os.PathLike[str] | None = None,
    title: str = "",
    force: bool = False,
) -> Path:
    """Write one self-contained HTML file: headline, warnings, curve, graph, maps, tables and settings.

    Parameters
    ----------
    path
        An archive, or several.
    output
        The HTML file, by default in the working directory. Another HTML file is replaced, other files are not.
    run, layers, metrics
        Selection to show; see :func:`onnxinfo.query`.
    model
        The ONNX file of the runs, for the connections in the drawing of the graph; without it, and for runs with layers
        missing from it, layers are connected in order of depth.
    title
        The page's title.
    force
        Replace an existing file whatever it contains, but never an archive or the model.

    Returns
    -------
    Path
        The file's path.

    Raises
    ------
    UsageError
        Part of the selection does not exist, runs of different precision are below rounding, or the file may not be
        written (see ``force``).
    ArchiveError
        An archive cannot be read, or the file cannot be written.

    Examples
    --------
    >>> onnxinfo.report("result.h5", "report.html", model="digits-cnn.onnx", title="Digits").name
    'report.html'
    """
    target = claim(output, HTML, inputs=[path, model], force=force)
    loaded = None if model is None else _load(model)
    fitting = model is None
    selection = Selection.of(path, run=run, layers=layers, metrics=metrics)
    count = sum(1 for _ in selection.views())
    _check_comparable(selection)
    text = caution_of(selection, selection.metrics)
    cautions = [f"{text[0].upper()}{text[1:]}."] if text else []
    runs: list[dict[str, Any]] = []
    titles = selection.titles()
    for view, source in selection.views():
        edges = None if loaded is None else model_edges(loaded, [row.name for row in view.layers])
        fitting |= edges is not None
        data = run_data(view, MAP_BYTES // count)
        data["units"] = units_data(view)
        data["archive"] = Path(source).name
        data["key"] = titles[source, view.name]
        data["graph"] = dataclasses.asdict(graph_layout([row.depth for row in view.layers], edges))
        runs.append(data)
    if not runs:
        raise UsageError("the archive has no runs; there is nothing to report")
    if not fitting:
        raise UsageError(f"model {printable(model)} has not the layers of any run; give the file that was analyzed")
    compared = comparison(selection) if len(runs) > 1 else None
    with target.writing() as part, part.open("w", encoding="utf-8") as file:
        file.writelines(render(runs, cautions, printable(title), compared))
        size = file.tell()
    logger.info("wrote %s: %.2f MB", target.path, size / 1e6)
    return Path(output)


def _check_comparable(selection: Selection) -> None:
    """Refuse runs whose numbers of a metric are not comparable."""
    found: dict[str, list[RunValues]] = {}
    for view, _ in selection.views():
        for metric in view.metrics:
            found.setdefault(metric.name, []).append(run_values(view, metric.name))
    for alike in found.values():
        check_comparable(alike)


def _load(model: str | os.PathLike[str]) -> Model:
    from ...graph.model import load

    return load(model)


#: The page's scripts, in the order in which they need each other; each is about one thing.
_SCRIPTS = ("core", "color", "curve", "maps", "differences", "samples", "graph", "columns", "table", "main")
# Where the template takes the data, which are too large to pass through it.
_DATA = "{{ data }}"
_NAMED = 4


def render(
    runs: list[dict[str, Any]], cautions: Sequence[str], title: str = "", compared: Comparison | None = None
) -> Iterator[str]:
    """Yield the page's HTML; all text from the data is escaped, and only the page's own scripts may run."""
    # Imported here because only this needs it.
    import jinja2

    folder = files(__package__)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    own = [(folder / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    before, after = (folder / "report.html").read_text(encoding="utf-8").split(_DATA)
    keys = ", ".join(printable(each["key"]) for each in runs[:_NAMED]) + (", …" if len(runs) > _NAMED else "")
    values = {
        "title": title or f"onnxinfo: {keys}",
        "heading": title or keys,
        "runs": runs,
        "cautions": cautions,
        "compared": compared,
        "style": _style(folder, len(runs)),
        "scripts": own,
        "hashes": [_hash(script) for script in own],
    }
    yield str(environment.from_string(before).render(values))
    bare = [{key: value for key, value in each.items() if key not in _HTML_ONLY} for each in runs]
    # Within a script element, only `<` could end it.
    for text in json_pieces(
        {
            "runs": bare,
            "colors": list(COLORS),
            "scale": _scale(SEQUENTIAL),
            "diverging": _scale(DIVERGING),
            "most": MOST_SAMPLES,
        }
    ):
        yield text.replace("<", "\\u003c")
    yield str(environment.from_string(after).render(values))


# Parts of a run's data that the template takes, and the scripts do not.
_HTML_ONLY = frozenset({"figures", "sentences", "card", "recipe", "provenance", "warnings"})


def _style(folder: Traversable, count: int) -> str:
    """Return the style sheet, with the color of each run."""
    rules = (f".run{number} {{ background: {COLORS[number % len(COLORS)]}; }}" for number in range(count))
    return (folder / "report.css").read_text(encoding="utf-8").replace("{{ run_colors }}", "\n".join(rules))


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _scale(name: str) -> list[str]:
    """Return the colors of the color scale, one per code of a map."""
    from matplotlib.colors import to_hex

    colors = color_map(name)
    return [to_hex(colors(i / 254)) for i in range(255)]
