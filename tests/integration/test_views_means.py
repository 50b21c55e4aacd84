"""Every view, plot and study shows the mean over all cells, including unproven ones, and their number."""

import contextlib
import csv
import json
import re

import archive_fakes as fakes
import numpy as np
import pytest
from click.testing import CliRunner
from places import LATEST

import onnxinfo
from onnxinfo.archive.means import layer_summary
from onnxinfo.cli import cli
from onnxinfo.registry import PLOTS

#: Shift of the unproven cell's value: a mean without that cell is far from one with it.
MOVED = 50.0
FAILED = 2
RUNS = ("float", "int8 QDQ")


@contextlib.contextmanager
def far_off():
    """Shift the values and maps of unproven cells."""
    original = fakes.cell

    def moved(metric, layer, sample, shape):
        map_, values = original(metric, layer, sample, shape)
        offset = np.float32(0 if values["converged"] else MOVED)
        return map_ + offset, values | {"value": values["value"] + offset}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "cell", moved)
        yield


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Return an archive of images and one of rows, with a layer whose unproven cell is far from the others."""
    folder = tmp_path_factory.mktemp("means")
    images, rows = folder / "images.h5", folder / "rows.h5"
    metrics = (fakes.PROVEN_SID, fakes.GRADIENT, fakes.CONCENTRATION)
    with far_off():
        for name in RUNS:
            fakes.make(images, name, fakes.schema(metrics=metrics))
        fakes.make(rows, "rows", fakes.table_schema(metrics=(fakes.PROVEN_SID,)))
    return images, rows


def means(path, metric, run=RUNS[0]):
    """Return the layers' means by the common rule."""
    with onnxinfo.open(path) as archive:
        return layer_summary(archive[run].values(metric))["value"]


@pytest.fixture
def figures(monkeypatch):
    """Return a list that collects each figure when it is written."""
    from matplotlib.figure import Figure

    drawn = []
    write = Figure.savefig

    def keep(figure, *arguments, **options):
        drawn.append(figure)
        write(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def numbers_in(figure):
    """Return all coordinates of lines and points in a figure."""
    found = []
    for axes in figure.get_axes():
        found += [np.asarray(line.get_xydata(), dtype=np.float64).ravel() for line in axes.lines]
        found += [np.asarray(each.get_offsets(), dtype=np.float64).ravel() for each in axes.collections]
    return np.concatenate(found)


def shows(figure, number):
    return bool(np.isclose(numbers_in(figure), number, rtol=1e-6, atol=1e-6).any())


MEANS = {"curve": {}, "scatter": {"against": "gradient"}, "history": {}, "coherency": {"metric": ["sid"]}}
SINGLE = ("overview", "maps", "certificate", "concentration", "columns")
# These show runs on rows of a table.
TABULAR = ("units", "columns")


def draw(kind, archives, output):
    images, rows = archives
    options = {"run": RUNS[0]} if kind in SINGLE and kind not in TABULAR else {}
    onnxinfo.plot(rows if kind in TABULAR else images, kind, output, **options, **MEANS.get(kind, {}))


@pytest.mark.parametrize("kind", [kind for kind in PLOTS.names() if kind != "sensitivity"])
def test_every_plot_says_what_is_unproven(kind, archives, tmp_path):
    draw(kind, archives, tmp_path / "p.svg")
    text = " ".join(re.findall(r"<text[^>]*>(.*?)</text>", (tmp_path / "p.svg").read_text()))
    assert re.search(r"\d of \d+ (cells|pairs) unproven", text)


@pytest.mark.parametrize("kind", [*MEANS, "concentration"])
def test_every_plotted_mean_holds_all_cells(kind, archives, tmp_path, figures):
    draw(kind, archives, tmp_path / "p.png")
    metric = kind if kind == "concentration" else "sid"
    mean = means(archives[0], metric)[FAILED]
    assert mean > -3 + MOVED / fakes.SAMPLES / 2
    assert shows(figures[-1], mean)


def test_the_units_plot_holds_all_cells(archives, tmp_path, figures):
    draw("units", archives, tmp_path / "p.png")
    with onnxinfo.open(archives[1]) as archive:
        maps = np.stack([*archive["rows"].maps("sid", FAILED)])
    assert all(shows(figures[-1], mean) for mean in maps.mean(0))


def test_compared_means_hold_all_cells(archives, tmp_path, figures):
    mean = means(archives[0], "sid")[FAILED]
    with onnxinfo.open(archives[0]) as archive:
        layer = archive[RUNS[0]].layers[FAILED].name
    (row,) = onnxinfo.compare(archives[0], layers=layer, metrics="sid")
    (apart,) = onnxinfo.compare(archives[0], layers=layer, metrics="sid", unpaired=True)
    assert row["value"] == row["other_value"] == apart["value"] == pytest.approx(mean)


def test_tables_reports_and_exports_hold_all_cells(archives, tmp_path):
    images = archives[0]
    mean = means(images, "sid")[FAILED]
    query = CliRunner().invoke(cli, ["query", str(images), "--metric", "sid", "--format", "json"], obj={})
    values = [row["value"] for row in json.loads(query.output) if row["run"] == RUNS[0]]
    assert values[FAILED] == pytest.approx(mean)
    onnxinfo.export(images, tmp_path / "t.csv", RUNS[0], "layer")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        exported = [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "sid"]
    assert exported[FAILED] == pytest.approx(mean)
    metric = report_data(images, tmp_path)["runs"][0]["metrics"][0]
    assert metric["mean"][FAILED] == pytest.approx(mean, abs=1e-6)
    assert "1/6 unproven" in metric["words"][FAILED]
    assert metric["mark"][FAILED] == "1 gap"
    assert metric["marks"][FAILED][1] == "gap"
    assert metric["gaps"][FAILED][1] == 0.25


def report_data(path, folder, **options):
    """Return the data of a report's page."""
    onnxinfo.report(path, folder / "r.html", **options)
    page = (folder / "r.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_studies_tables_hold_all_cells(archives, tmp_path):
    pytest.importorskip("torch")
    from onnxinfo.models.studies import compression, quantisation, tables

    images = archives[0]
    mean = means(images, "sid")[FAILED]
    tables.write_layers(images, ["sid"], tmp_path / "layers")
    rows = json.loads((tmp_path / "layers.json").read_text())["rows"]
    assert rows[FAILED]["mean"] == pytest.approx(mean)
    assert "(6, 1 unproven)" in (tmp_path / "layers.md").read_text()
    accuracies = dict.fromkeys(RUNS, 0.5)
    with onnxinfo.open(images) as archive:
        names = [layer.name for layer in archive[RUNS[0]].layers]
    (row, *_), shown = compression.table(images, None, accuracies)
    assert row[f"SID of {names[FAILED]}"] == pytest.approx(mean)
    assert "(6, 1 unproven)" in shown[0][f"SID of {names[FAILED]}"]
    found = quantisation.table(names, {1.5e-4: images, 0.01: images}, accuracies)
    text = found[FAILED * len(RUNS)]["SID at alpha 0.01"]
    assert text.startswith(f"{mean:.3f}")
    assert "1 unproven" in text


OLD = ("digits-cnn", "images", "half", "interrupted")


# The first version had no sensitivity.
@pytest.mark.parametrize("kind", [kind for kind in PLOTS.names() if kind != "sensitivity"])
def test_archives_of_the_first_version_are_drawn(kind, tmp_path):
    options = {"run": "images"} if kind in SINGLE else {"run": ["images", "half"]}
    options |= {"run": "interrupted"} if kind in TABULAR else {}
    onnxinfo.plot(LATEST, kind, tmp_path / "p.png", **options, **MEANS.get(kind, {}))
    assert (tmp_path / "p.png").stat().st_size > 0


def test_archives_of_the_first_version_are_compared_reported_and_exported(tmp_path):
    assert onnxinfo.compare(LATEST, run=["images", "half"])
    page = report_data(LATEST, tmp_path)
    assert [run["name"] for run in page["runs"]] == [*OLD]
    assert all(row["mark"] is None for row in onnxinfo.query(LATEST, per="sample"))
    for suffix in ("csv", "nc"):
        onnxinfo.export(LATEST, tmp_path / f"t.{suffix}", "images")
        assert (tmp_path / f"t.{suffix}").stat().st_size > 0
