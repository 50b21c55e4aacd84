"""Figures in Python: returned, drawn into axes of the caller's, of any size, and of any run and metric."""

import re
from dataclasses import replace
from itertools import combinations, pairwise

import archive_fakes as fakes
import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image

import onnxinfo
from onnxinfo.analysis.sensitivity_metric import SensitivityMetric
from onnxinfo.cli import cli
from onnxinfo.errors import UsageError
from onnxinfo.metrics import certificate
from onnxinfo.views.floor import linear_floor
from onnxinfo.views.floor_line import reference
from onnxinfo.views.panels import range_texts
from onnxinfo.views.plots.certificate import GAP_TOLERANCE, RATIO_TOLERANCE
from onnxinfo.views.reading_runs import read_runs
from onnxinfo.views.selection import Selection
from onnxinfo.views.style import FigureStyle, number_text

ONE_PANEL = {"curve": {}, "distribution": {}, "history": {"run": ()}, "scatter": {"against": "gradient"}}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "a.h5"
    metrics = (fakes.PROVEN_SID, fakes.GRADIENT, fakes.CONCENTRATION)
    for name in ("first", "second"):
        fakes.make(path, name, fakes.schema(metrics=metrics))
    return path


def words(figure):
    """All text of a figure."""
    return " ".join(each.get_text() for each in figure.findobj(mpl.text.Text)).replace("\n", " ")


def test_a_figure_is_returned_and_nothing_is_written(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = onnxinfo.plot(archive, "curve", title="All layers")
    assert isinstance(figure, Figure)
    assert "All layers" in words(figure)
    assert [*tmp_path.iterdir()] == []
    figure.savefig("later.svg")
    onnxinfo.plot(archive, "curve", "now.svg", title="All layers")
    assert (tmp_path / "later.svg").read_text() == (tmp_path / "now.svg").read_text()


def test_a_notebook_shows_it_with_a_text(archive):
    data, about = onnxinfo.plot(archive, "curve", width="column")._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert about["image/png"]["width"] == 336
    assert about["image/png"]["alt"].startswith("SID, nats per input unit, by layer in run first, 6 samples: from")


@pytest.mark.parametrize("kind", ONE_PANEL)
def test_plots_of_one_panel_go_into_axes(kind, archive):
    options = {"run": "first", **ONE_PANEL[kind]}
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert onnxinfo.plot(archive, kind, ax=right, **options) is right
    assert not left.has_data()
    assert right.has_data()
    assert right.get_xlabel()
    assert figure.get_size_inches().tolist() == Figure().get_size_inches().tolist()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("maps", {}, "plot 'maps' has several panels here and does not fit into ax"),
        ("curve", {"metric": ["sid", "gradient"]}, "has several panels here"),
        ("curve", {"size": (4, 4)}, "ax and size are given; the figure of ax is yours: leave out size"),
        ("curve", {"output": "a.png"}, "ax and output are given"),
    ],
)
def test_what_does_not_go_into_axes(kind, options, message, archive):
    axes = Figure().add_subplot()
    with pytest.raises(UsageError, match=message):
        onnxinfo.plot(archive, kind, ax=axes, **options)
    with pytest.raises(UsageError, match=r"ax is Figure; give axes of a matplotlib figure"):
        onnxinfo.plot(archive, "curve", ax=Figure())


def test_size_and_resolution_are_exact(archive, tmp_path):
    line = ["plot", str(archive), "curve", "-o", str(tmp_path / "a.png"), "--size", "5x3", "--dpi", "60"]
    result = CliRunner().invoke(cli, [*line, "--title", "A title that is so long that it takes two lines" * 2])
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "a.png").size == (300, 180)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0.1, 3)}, "give width and height in inches, 1 to 100"),
        ({"size": "wide"}, "give width and height in inches"),
        ({"dpi": 3}, "integer from 10 to 2400"),
        ({"size": (90, 2), "dpi": 1200}, "more than 32000 pixels; choose a smaller size or dpi"),
        ({"x": "log"}, "x 'log' is unknown; choose one of depth, relative, index"),
    ],
)
def test_impossible_figures_are_refused(options, message, archive):
    with pytest.raises(UsageError, match=message):
        onnxinfo.plot(archive, "curve", **options)


def test_layers_are_placed_by_depth_relative_depth_or_index(archive):
    places = {
        x: onnxinfo.plot(archive, "curve", run="first", x=x).axes[0].lines[0].get_xdata().tolist()
        for x in ("depth", "relative", "index")
    }
    assert places == {
        "depth": [1, 5, 9, 13],
        "relative": pytest.approx([1 / 13, 5 / 13, 9 / 13, 1]),
        "index": [0, 1, 2, 3],
    }


def center(axes):
    """The places of what is drawn, without the spread of the samples."""
    lines = [line for line in axes.lines if line.get_linestyle() != "None" and len(line.get_xdata()) > 1]
    return {round(float(each), 3) for line in lines for each in line.get_xdata()}


@pytest.mark.parametrize("kind", ["overview", "concentration", "coherency"])
def test_every_plot_by_layer_takes_the_place_of_layers(kind, archive):
    for x, expected in {"depth": {1, 5, 9, 13}, "relative": {0.077, 0.385, 0.692, 1}, "index": {0, 1, 2, 3}}.items():
        options = {"samples": [0]} if kind == "coherency" else {}
        figure = onnxinfo.plot(archive, kind, run="first", x=x, **options)
        assert any(expected <= center(axes) for axes in figure.axes)
    with pytest.raises(UsageError, match="x 'log' is unknown"):
        onnxinfo.plot(archive, kind, run="first", x="log")


@pytest.mark.parametrize("kind", ["distribution", "certificate"])
@pytest.mark.parametrize("x", ["depth", "relative", "index"])
def test_points_of_a_layer_stay_at_its_place(kind, x, archive):
    places = {"depth": [1, 5, 9, 13], "relative": [1 / 13, 5 / 13, 9 / 13, 1], "index": [0, 1, 2, 3]}[x]
    axes = onnxinfo.plot(archive, kind, run="first", x=x).axes[0]
    points = np.concatenate([line.get_xdata() for line in axes.lines if line.get_linestyle() == "None"])
    nearest = np.abs(points[:, None] - np.array(places)).min(axis=1)
    assert len(points) == fakes.LAYERS * fakes.SAMPLES
    assert nearest.max() < 0.3 * (places[1] - places[0])
    assert ("relative depth" in axes.figure.axes[-1].get_xlabel()) == (x == "relative")


def test_a_certificate_shows_why_a_ratio_beyond_the_band_is_proven(tmp_path):
    fakes.make(tmp_path / "a.h5", "net", fakes.schema(metrics=(fakes.PROVEN_SID,)))
    figure = onnxinfo.plot(tmp_path / "a.h5", "certificate")
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        values = archive["net"].values("sid")
    ends = np.array([segment[:, 1] for bars in figure.axes[0].collections for segment in bars.get_segments()])
    ratio, error = values["ratio"].ravel(), values["ratio_stderr"].ravel()
    expected = np.stack([ratio - 2 * error, ratio + 2 * error], axis=1)
    np.testing.assert_allclose(np.sort(ends, axis=0), np.sort(expected, axis=0), rtol=1e-5)
    assert "passes if its bar of two standard errors reaches the gray band" in words(figure)
    assert (RATIO_TOLERANCE, GAP_TOLERANCE) == (certificate.RATIO_TOLERANCE, certificate.GAP_TOLERANCE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("relative:0.01", "changes logits by 1 % of its variance"),
        ("absolute:0.5", "changes logits by 0.5, squared and summed"),
        ("kl:0.01", "changes the class probabilities by 0.01 nats"),
        ("", "changes logits"),
        ("other:many", "changes logits"),
    ],
)
def test_sensitivity_says_in_words_what_the_noise_does(change, said, tmp_path):
    recipe = fakes.schema().recipe | {"sensitivity_change": change, "sensitivity_target": "logits"}
    channels = {layer.name: [1.0, 4.0, 0.5, 0.0] for layer in fakes.schema().layers}
    described = fakes.schema(
        metrics=(SensitivityMetric.metric,), recipe=recipe, provenance={"sensitivity_channels": channels}
    )
    fakes.make(tmp_path / "a.h5", "net", described)
    figure = onnxinfo.plot(tmp_path / "a.h5", "sensitivity")
    assert f"noise that {said}, in standard deviations of the tensor" in words(figure)
    assert "sensitivity of a channel over that of the mean channel" in words(figure)
    figure.canvas.draw()
    ticks = [label.get_text() for axes in figure.axes[:2] for label in axes.get_xticklabels(which="both")]
    assert not any("$" in text for text in ticks)
    assert any(ticks)


def test_relative_depth_is_that_of_the_whole_run(archive):
    axes = onnxinfo.plot(archive, "curve", run="first", x="relative", layers=["*layer1*"]).axes[0]
    assert axes.lines[0].get_xdata().tolist() == pytest.approx([5 / 13])


@pytest.mark.parametrize("kind", ["curve", "distribution", "history", "scatter"])
def test_the_floor_is_shown_whether_near_or_far(kind, archive, tmp_path):
    options = {"against": "gradient"} if kind == "scatter" else {}
    near = onnxinfo.plot(archive, kind, **options)
    assert f"floor of a linear layer: {number_text(-2.98)}" in words(near)
    high = fakes.schema(recipe=fakes.schema().recipe | {"alpha": 1e-9})
    for name in ("a", "b"):
        fakes.make(tmp_path / "far.h5", name, high)
    assert f"floor of a linear layer: {number_text(linear_floor(1e-9))}" in words(
        onnxinfo.plot(tmp_path / "far.h5", kind, **options)
    )
    assert "floor" not in words(onnxinfo.plot(archive, "curve", metric="gradient"))


@pytest.mark.parametrize(
    ("values", "side", "where"),
    [([1, 1, 0.01], "right", "top"), ([0.01, 1, 1], "right", "bottom"), ([1, 1, -0.5], "left", "bottom")],
)
def test_the_floors_label_avoids_what_is_drawn(values, side, where, archive):
    """Below a curve that ends at the floor, above one that begins there, and at the left of one that ends beyond it."""
    with onnxinfo.open(archive) as opened:
        (run,) = read_runs(Selection.of(opened, run="first", metrics=("sid",)), "sid")
    axes = Figure(figsize=(7, 4), dpi=100).add_subplot()
    axes.plot([0, 1, 1.99, 2], [linear_floor(1.5e-4) + each for each in (values[0], *values[1:], values[2])])
    reference(axes, [run], FigureStyle.named())
    (label,) = axes.texts
    axes.figure.canvas.draw()
    assert (label.get_horizontalalignment(), label.get_verticalalignment()) == (side, where)
    drawn = axes.lines[0].get_path().transformed(axes.transData)
    assert not drawn.intersects_bbox(label.get_window_extent(), filled=False)


def test_the_floor_is_below_a_distribution_whose_points_it_would_cover(archive):
    figure = onnxinfo.plot(archive, "distribution", run="first")
    assert not figure.axes[0].texts
    assert f"dashed: floor of a linear layer: {number_text(-2.98)}" in words(figure)


def test_maps_of_several_runs_are_side_by_side(archive):
    figure = onnxinfo.plot(archive, "maps", samples=["0-1"])
    captions = [axes.get_ylabel().split("\n") for axes in figure.axes if axes.get_ylabel()]
    assert [each[:2] for each in captions] == [
        ["first", "sample 0.png"],
        ["second", "sample 0.png"],
        ["first", "sample 1.png"],
        ["second", "sample 1.png"],
    ]
    assert captions[0][2:] == ["class 0"]
    assert sum(len(axes.images) for axes in figure.axes[:20]) == 4 * (1 + fakes.LAYERS)


def test_maps_of_networks_with_other_layers_are_below_each_other(tmp_path):
    rows = [replace(row, name=f"block{row.index}") for row in fakes.schema().layers[:2]]
    fakes.make(tmp_path / "a.h5", "one")
    fakes.make(tmp_path / "a.h5", "other", fakes.schema(layers=rows))
    figure = onnxinfo.plot(tmp_path / "a.h5", "maps", samples=[0])
    titles = [axes.get_title() for axes in figure.axes[:10]]
    assert titles == ["input", *(f"layer{i}" for i in range(4)), "input", "block0", "block3", "", ""]


def test_a_metric_that_a_run_has_is_drawn_where_none_is_named(tmp_path):
    fakes.make(tmp_path / "a.h5", "one", fakes.schema(metrics=(fakes.CONCENTRATION, fakes.GRADIENT)))
    assert onnxinfo.plot(tmp_path / "a.h5", "curve").axes[0].get_ylabel() == "concentration, nats"
    assert "mean absolute gradient" in words(onnxinfo.plot(tmp_path / "a.h5", "maps"))


def test_concentration_alone_is_drawn(tmp_path):
    fakes.make(tmp_path / "a.h5", "one", fakes.schema(metrics=(fakes.CONCENTRATION,)))
    figure = onnxinfo.plot(tmp_path / "a.h5", "concentration")
    assert len(figure.axes) == 1 + 5
    assert "map" not in words(figure)
    fakes.make(tmp_path / "b.h5", "one", fakes.schema(metrics=(fakes.CONCENTRATION, fakes.GRADIENT)))
    assert "mean absolute gradient" in words(onnxinfo.plot(tmp_path / "b.h5", "concentration"))


def test_text_stays_text_with_its_font(archive, tmp_path):
    figure = onnxinfo.plot(archive, "curve", tmp_path / "a.svg", title="Ω <of> both")
    text = (tmp_path / "a.svg").read_text()
    assert "<title>Ω &lt;of&gt; both</title>" in text
    assert f"<desc>{figure.alt}</desc>" in text
    assert text.count("@font-face") == 2  # regular and bold
    assert 'role="img"' in text
    onnxinfo.plot(archive, "curve", tmp_path / "a.png", title="Ω")
    assert Image.open(tmp_path / "a.png").info["Description"] == figure.alt


def test_numbers_have_minus_signs(archive):
    shown = words(onnxinfo.plot(archive, "maps", run="first"))
    assert number_text(-2.0, ".0f") == "\N{MINUS SIGN}2"
    assert "\N{MINUS SIGN}" in shown
    assert not any(f"-{digit}" in shown for digit in "0123456789")


def overview(folder, samples=fakes.SAMPLES, **changes):
    """Draw the overview of a run with some of its parts changed."""
    few = {
        "sample_names": fakes.schema().sample_names[:samples],
        "labels": None,
        "foreground": None,
        "thumbnails": fakes.schema().thumbnails[:samples],
    }
    path = fakes.make(folder / "a.h5", "net", fakes.schema(**{"metrics": (fakes.PROVEN_SID,), **few, **changes}))
    return onnxinfo.plot(path, "overview")


def test_an_overview_has_the_floor_and_maps_of_three_samples(tmp_path):
    figure = overview(tmp_path)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        order = np.argsort(archive["net"].values("sid")["value"].mean(0))
    captions = [axes.get_ylabel().split("\n") for axes in figure.axes if axes.images and axes.get_ylabel()]
    named = [(each[0], each[1]) for each in captions]
    roles = ("most discarded", "typical", "least discarded")
    assert named == [(role, f"sample {order[at]}.png") for role, at in zip(roles, (-1, 3, 0), strict=True)]
    assert "floor of a linear layer" in words(figure)
    assert "light is discarded" in words(figure)
    (curve,) = (axes for axes in figure.axes if axes.lines)
    texts = [text.get_text() for text in curve.get_legend().get_texts()]
    assert texts == ["mean", *roles, f"floor of a linear layer: {number_text(-2.98)}"]
    assert curve.get_legend().get_title().get_text() == "mean, and thin lines: 3 samples, shown below"
    # In the panel it would cover a line.
    assert not any("floor" in text.get_text() for text in curve.texts)


@pytest.mark.parametrize(
    ("changes", "images", "said"),
    [
        ({"metrics": (fakes.CONCENTRATION,)}, 0, "no maps: concentration has no values"),
        ({"metrics": (fakes.CONCENTRATION,)}, 0, "highest"),
        ({"samples": 1}, 1 + fakes.LAYERS, "the only sample"),
        ({"samples": 2}, 2 * (1 + fakes.LAYERS), "least discarded"),
        ({"layers": fakes.schema().layers[:1]}, 3 * 2, "layer0"),
        ({"thumbnails": None}, 3 * fakes.LAYERS, "typical"),
    ],
)
def test_an_overview_of_little_is_sensible(changes, images, said, tmp_path):
    figure = overview(tmp_path, **changes)
    assert sum(len(axes.images) for axes in figure.axes) == images
    assert said in words(figure)


def test_an_overview_marks_what_is_unproven(tmp_path, monkeypatch):
    cell = fakes.cell

    def unproven(*args):
        map_, values = cell(*args)
        return map_, values | {"converged": False, "mark": 2}

    monkeypatch.setattr(fakes, "cell", unproven)
    figure = overview(tmp_path)
    assert "hollow, ?: not proven (24 of 24 cells unproven)" in words(figure)
    assert words(figure).split().count("?") == 3 * fakes.LAYERS
    assert "chosen by" not in words(figure)
    assert len(re.findall(r"SID \S+\d\?", words(figure))) == 3
    assert figure.alt.count(" (some samples unproven)") == 2
    assert onnxinfo.plot(tmp_path / "a.h5", "curve").alt.count(" (some samples unproven)") == 4


@pytest.mark.parametrize(("unproven", "unused"), [((2,), (2,)), ((0, 2, 4), range(fakes.SAMPLES))])
def test_an_overview_chooses_samples_by_their_proven_values(unproven, unused, tmp_path, monkeypatch):
    """Those of layers that are mostly unproven are not used at all."""
    cell = fakes.cell

    def of_layer_1(metric, layer, sample, *rest):
        map_, values = cell(metric, layer, sample, *rest)
        proof = {"converged": False, "mark": 2} if layer == 1 and sample in unproven else {}
        return map_, values | proof | ({"value": 9.0 + sample} if layer == 1 and sample in unused else {})

    monkeypatch.setattr(fakes, "cell", of_layer_1)
    figure = overview(tmp_path)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        values = archive["net"].values("sid")["value"]
    values[1, list(unused)] = np.nan
    values[2, 1] = np.nan  # unproven in all archives of archive_fakes
    means = np.nanmean(values[[0, 2, 3]], axis=1) if np.isnan(values[1]).all() else np.nanmean(values, axis=1)
    scores = np.nanmean(values[np.isfinite(values).any(axis=1)] - means[:, None], axis=0)
    captions = [axes.get_ylabel().split("\n") for axes in figure.axes if axes.images and axes.get_ylabel()]
    order = np.argsort(scores)
    assert [each[1] for each in captions] == [f"sample {order[at]}.png" for at in (-1, 3, 0)]
    assert "samples are chosen by their proven values" in words(figure)


@pytest.mark.slow
def test_an_overview_of_many_layers_with_long_names_is_legible(tmp_path):
    rows = [
        replace(fakes.schema().layers[0], name=f"/model/{'long' * 9}/block{i // 50}/layer{i}", index=i, depth=i)
        for i in range(200)
    ]
    cells = {"axes": ("feature",), "sample_shape": (4,), "unit": np.ones(4), "thumbnails": None}
    figure = overview(tmp_path, samples=2, layers=rows, **cells)
    figure.canvas.draw()
    (curve,) = (axes for axes in figure.axes if axes.lines)
    boxes = [each.get_window_extent() for each in curve.get_xticklabels()]
    gaps = np.abs(np.diff(sorted(box.x1 for box in boxes)))
    assert gaps.min() > 0.15 * figure.dpi
    assert max(len(each.get_text()) for each in curve.get_xticklabels()) <= 18


def test_the_axis_of_a_narrow_panel_is_labeled_within_the_figure(tmp_path):
    rows = [replace(fakes.schema().layers[0], name=f"layer{i}", index=i, depth=i) for i in range(20)]
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(layers=rows))
    figure = onnxinfo.plot(path, "curve", metric=["sid", "gradient", "concentration"])
    figure.canvas.draw()
    labels = [axes.xaxis.label for axes in figure.axes]
    assert all("of 20 named" in " ".join(label.get_text().split()) for label in labels)
    boxes = [label.get_window_extent() for label in labels]
    assert boxes[-1].x1 <= figure.bbox.x1
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_changes_are_maps_minus_those_of_the_layer_before(archive):
    figure = onnxinfo.plot(archive, "maps", run="first", samples=[2], change=True)
    with onnxinfo.open(archive) as opened:
        maps = [opened["first"].map("sid", layer, 2).mean(0) for layer in range(fakes.LAYERS)]
    found = [axes.images[0] for axes in figure.axes if axes.images and axes.images[0].get_array().shape == (24, 24)]
    assert len(found) == fakes.LAYERS - 1
    for image, one, other in zip(found, maps, maps[1:], strict=False):
        np.testing.assert_allclose(image.get_array(), other - one, rtol=1e-5, atol=1e-6)
        assert image.norm.vmin == -image.norm.vmax
    assert "the first minus 'layer0'" in words(figure)
    assert "dark (purple): kept more, light (orange): discarded more" in words(figure)


def test_changes_have_one_scale_unless_each_layer_is_to_have_its_own(archive):
    def scales(**options):
        figure = onnxinfo.plot(archive, "maps", run="first", change=True, **options)
        return {axes.images[0].get_clim() for axes in figure.axes if axes.images and axes.images[0].norm.vmin < 0}

    assert len(scales()) == 1
    assert len(scales(scale="layer")) == fakes.LAYERS - 1


@pytest.mark.parametrize("options", [{}, {"samples": [0]}, {"width": "column"}])
def test_pictures_are_beside_their_maps(options, archive):
    figure = onnxinfo.plot(archive, "maps", run="first", **options)
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in figure.axes if axes.images]
    columns = 1 + fakes.LAYERS
    for row in range(0, len(boxes), columns):
        assert np.ptp([each.y0 for each in boxes[row : row + columns]]) < 1
        assert np.ptp([each.y1 for each in boxes[row : row + columns]]) < 1


@pytest.mark.parametrize("layers", [["*layer0*"], ["*layer0*", "*layer1*"]])
def test_color_bars_lie_within_the_width_of_their_maps(layers, archive):
    figure = onnxinfo.plot(archive, "maps", run="first", layers=layers)
    figure.canvas.draw()
    maps = [axes.get_window_extent() for axes in figure.axes if axes.images and axes.images[0].get_array().ndim == 2]
    bars = [axes.get_window_extent() for axes in figure.axes if not axes.images]
    assert len(bars) == len(layers)
    for above, bar in zip(maps, bars, strict=False):
        assert above.x0 - 2 < bar.x0 < bar.x1 < above.x1 + 2
        assert bar.width > 0.5 * above.width


def test_ends_of_color_scales_are_named_and_marked_where_they_cut(archive):
    figure = onnxinfo.plot(archive, "maps", run="first")
    bars = [axes for axes in figure.axes if not axes.images and axes.get_xticklabels()]
    ends = [[label.get_text().strip() for label in axes.get_xticklabels()] for axes in bars]
    assert len(ends) == fakes.LAYERS
    assert all(low.startswith("≤") and high.startswith("≥") for low, high in ends)
    assert "dark: kept light: discarded" in words(figure)
    assert "dark: low light: high" in words(onnxinfo.plot(archive, "maps", run="first", metric="gradient"))
    assert range_texts((0, 1), [np.array([0.0, 1.0, np.nan])]) == ("0.0", "1.0")
    assert range_texts((0, 1), [np.array([0.5]), np.array([0.0, 1.5])]) == ("0.0", "≥\u20091.0")


@pytest.mark.parametrize("width", ["column", "page"])
def test_ends_of_color_scales_do_not_touch(width, archive):
    figure = onnxinfo.plot(archive, "maps", run="first", width=width)
    figure.canvas.draw()
    bars = [axes for axes in figure.axes if not axes.images and axes.get_xticklabels()]
    boxes = [label.get_window_extent() for axes in bars for label in axes.get_xticklabels() if label.get_text()]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_maps_say_how_padding_looks(tmp_path, monkeypatch):
    cell = fakes.cell

    def padded(metric, layer, sample, shape):
        map_, values = cell(metric, layer, sample, shape)
        map_[5:] = np.nan
        return map_, values

    recipe = fakes.schema().recipe | {"unit_mask": "mask"}
    tokens = {"axes": ("position", "embedding"), "sample_shape": (7, 4), "unit": np.ones((7, 4)), "thumbnails": None}
    described = fakes.schema(metrics=(fakes.SID,), foreground=None, recipe=recipe, **tokens)
    assert "no value" not in words(onnxinfo.plot(fakes.make(tmp_path / "a.h5", described=described), "maps"))
    monkeypatch.setattr(fakes, "cell", padded)
    figure = onnxinfo.plot(fakes.make(tmp_path / "b.h5", described=described), "maps")
    assert "plain gray: no value, such as padding" in words(figure)
    assert "dark: kept, light: discarded" in words(figure)


def test_class_means_are_means_of_the_samples_of_a_class(archive):
    figure = onnxinfo.plot(archive, "maps", run="first", class_means=True)
    captions = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert captions == [f"class {label}\nmean of 2" for label in range(3)]
    found = [axes.images[0] for axes in figure.axes if axes.images and axes.images[0].get_array().shape == (24, 24)]
    with onnxinfo.open(archive) as opened:
        mean = np.mean([opened["first"].map("sid", 0, sample).mean(0) for sample in (0, 3)], axis=0)
    np.testing.assert_allclose(found[0].get_array(), mean, rtol=1e-5, atol=1e-6)


def test_samples_are_sorted_by_class(archive):
    figure = onnxinfo.plot(archive, "maps", run="first", sort="class", layers=["*layer0*"])
    classes = [axes.get_ylabel().split("\n")[1] for axes in figure.axes if axes.get_ylabel()]
    assert classes == [f"class {label}" for label in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": True, "layers": ["*layer0*"]}, "one layer is shown; choose several"),
        ({"change": True, "overlay": True}, "no pictures below; leave out overlay"),
        ({"sort": "name"}, "sort 'name'; give one of sample, class"),
    ],
)
def test_maps_that_make_no_sense_are_refused(options, message, archive):
    with pytest.raises(UsageError, match=message):
        onnxinfo.plot(archive, "maps", run="first", **options)


def test_sorting_by_class_needs_labels(tmp_path):
    fakes.make(tmp_path / "a.h5", "one", fakes.schema(labels=None))
    with pytest.raises(UsageError, match=r"run 'one' has no labels to sort by, which are given to onnxinfo\.analyze"):
        onnxinfo.plot(tmp_path / "a.h5", "maps", class_means=True)


def test_maps_are_animated_through_the_layers(archive, tmp_path):
    line = ["plot", str(archive), "maps", "-o", str(tmp_path / "a.gif"), "--run", "first", "--samples", "0"]
    result = CliRunner().invoke(cli, [*line, "--width", "column"])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == fakes.LAYERS
        assert animation.width == 350
        pictures = []
        for number in range(animation.n_frames):
            animation.seek(number)
            pictures.append(animation.convert("RGB").tobytes())
    assert len(set(pictures)) == fakes.LAYERS


def test_other_plots_are_not_animated(archive, tmp_path):
    with pytest.raises(UsageError, match=r"cannot draw '.gif'; name a file that ends in .png, .svg, .pdf"):
        onnxinfo.plot(archive, "curve", tmp_path / "a.gif")


def test_a_scatter_takes_another_metric_that_the_run_has(archive):
    axes = onnxinfo.plot(archive, "scatter", run="first").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("SID, nats per input unit", "mean absolute gradient")


@pytest.mark.parametrize("kind", ["compare", "ranking", "curve"])
def test_a_legend_covers_neither_the_title_nor_the_panels(kind, archive):
    """matplotlib 3.11 keeps no room for a legend that is moved below a title."""
    figure = onnxinfo.plot(archive, kind, title="A title", metric="sid")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = [panel.get_window_extent() for panel in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]
    assert any(text.get_text() == "A title" for text in figure.texts)
    assert not any(legend.get_window_extent().overlaps(box) for box in boxes)
