"""Every kind of plot is drawn, reproducibly and in each style; comparisons and annotated models."""

import dataclasses
import json
import re
import shlex
import shutil

import archive_fakes as fakes
import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from onnx import helper
from PIL import Image
from places import DOCS
from scipy import stats

import onnxinfo
from onnxinfo.analysis.sensitivity_metric import SensitivityMetric
from onnxinfo.archive.format import LayerRow, Metric
from onnxinfo.archive.means import layer_summary
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli
from onnxinfo.errors import UsageError
from onnxinfo.models import path as bundled
from onnxinfo.registry import PLOTS
from onnxinfo.views.canvas import Canvas
from onnxinfo.views.plotting import figure_plot
from onnxinfo.views.reading_runs import read_runs
from onnxinfo.views.selection import Selection
from onnxinfo.views.style import FigureStyle

RU = Metric("ru", "reconstruction uncertainty")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("plots") / "a.h5"
    masks = np.zeros((fakes.SAMPLES, 24, 24), np.uint8)
    masks[:, 5:12, 6:15] = 1
    described = fakes.schema(metrics=(*fakes.METRICS, RU), foreground=masks)
    for name in ("epoch 10", "epoch 2"):
        fakes.make(path, name, described)
    return path


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    shapes = {
        "tokens": (("position", "embedding"), (7, 4)),
        "features": (("feature",), (12,)),
        "series": (("time", "channel"), (20, 2)),
    }
    for name, (axes, shape) in shapes.items():
        options = {"thumbnails": None, "foreground": None, "unit": np.ones(shape), "metrics": (fakes.SID,)}
        fakes.make(folder / f"{name}.h5", name, fakes.schema(axes=axes, sample_shape=shape, **options))
    channels = {layer.name: [1.0, 4.0, 0.5, 0.0] for layer in fakes.schema().layers}
    described = fakes.schema(metrics=(SensitivityMetric.metric,), provenance={"sensitivity_channels": channels})
    fakes.make(folder / "sensitivity.h5", "sensitivity", described)
    return folder


@pytest.mark.parametrize("kind", PLOTS.names())
def test_every_kind_is_drawn_by_one_command(kind, archive, others, tmp_path):
    of_others = {"units": "features.h5", "columns": "features.h5", "sensitivity": "sensitivity.h5"}
    file = others / of_others[kind] if kind in of_others else archive
    one_run = ["--run", "epoch 2"] if kind in ("overview", "certificate", "concentration") else []
    result = CliRunner().invoke(cli, ["plot", str(file), kind, "-o", str(tmp_path / "p.png"), *one_run])
    assert result.exit_code == 0, result.exception
    picture = Image.open(tmp_path / "p.png").convert("RGB")
    assert picture.width == 1800
    assert len(picture.getcolors(1 << 24)) > 20


def test_help_names_every_kind():
    shown = CliRunner().invoke(cli, ["plot", "--help"]).output
    assert [kind for kind in PLOTS.names() if not re.search(rf"^ +{kind}  ", shown, re.MULTILINE)] == []
    assert PLOTS.names() == [PLOTS.get(kind).name for kind in PLOTS.names()]


def test_a_plot_is_one_registered_function(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(PLOTS, "_registered", {**PLOTS._registered})

    @PLOTS.register("depths")
    @figure_plot("depths", samples=(1,))
    def draw(canvas, selection, style, *, marker="o"):
        (first, _) = read_runs(selection, selection.metrics[0])
        canvas.panel().plot([row.depth for row in first.layers], marker, color=style.theme.ink)
        assert selection.samples == (1,)

    (axes,) = onnxinfo.plot(archive, "depths", tmp_path / "p.svg", marker="s").axes
    assert axes.lines[0].get_marker() == "s"
    assert (tmp_path / "p.svg").stat().st_size > 1000
    known = "run, layers, metric, samples, input, marker, title, theme, width, size, dpi, force"
    with pytest.raises(UsageError, match=f"it takes {known}"):
        onnxinfo.plot(archive, "depths", tmp_path / "p.svg", overlay=True)
    with pytest.raises(UsageError, match="did you mean 'depths'"):
        PLOTS.get("depth")
    style = FigureStyle.named()
    draw.draw(Canvas(style), Selection.of(archive, metrics=("sid",), samples=(1,)), style)


def test_the_concentration_of_several_runs_is_a_curve(archive, tmp_path):
    both = {"width": "column", "run": ("epoch 2", "epoch 10")}
    onnxinfo.plot(archive, "concentration", tmp_path / "a.png", **both)
    onnxinfo.plot(archive, "curve", tmp_path / "b.png", metric="concentration", **both)
    assert Image.open(tmp_path / "a.png").tobytes() == Image.open(tmp_path / "b.png").tobytes()


@pytest.mark.parametrize("kind", ["maps", "units"])
def test_an_archive_without_runs_has_nothing_to_draw(kind, tmp_path):
    fakes.make(tmp_path / "a.h5")
    onnxinfo.delete_run(tmp_path / "a.h5", "first")
    with pytest.raises(UsageError, match="there is none"):
        onnxinfo.plot(tmp_path / "a.h5", kind, tmp_path / "p.png")


def test_the_papers_figures_are_a_command_each(archive, tmp_path, monkeypatch):
    """The commands in the docs, run on archives with the contents that they assume."""
    text = (DOCS / "howto.md").read_text()
    commands = re.findall(r"^ +onnxinfo (plot .+-o (fig\w+)\.pdf)$", text, re.MULTILINE)
    assert {name[:4] for _, name in commands} == {"fig1", "fig3", "fig4", "fig5"}
    for line, _ in commands:
        for file in (word for word in line.split() if word.endswith(".h5")):
            shutil.copy(archive, tmp_path / file)
            if file not in ("epochs.h5", "coherency.h5"):
                onnxinfo.rename_run(tmp_path / file, "epoch 2", f"of {file}")
                onnxinfo.delete_run(tmp_path / file, "epoch 10")
    monkeypatch.chdir(tmp_path)
    for line, name in commands:
        result = CliRunner().invoke(cli, shlex.split(line))
        assert result.exit_code == 0, (line, result.output, result.exception)
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_layers_without_a_map_are_left_out(tmp_path):
    """Class activation maps exist for a single layer only."""
    cam = Metric("cam", "class activation map", "", fields=())
    with RunWriter.open(tmp_path / "a.h5", "one", fakes.schema(metrics=(cam,))) as writer:
        for layer in range(fakes.LAYERS):
            maps = np.full((fakes.SAMPLES, *fakes.IMAGE), np.nan if layer != 2 else 1.0, np.float32)
            maps[:, 0] *= 2
            numbers = np.full(fakes.SAMPLES, maps[0].mean())
            values = {"value": numbers, "stderr": 0 * numbers, "converged": np.isfinite(numbers)}
            writer.write("cam", layer, range(fakes.SAMPLES), values=values, map=maps)
    onnxinfo.plot(tmp_path / "a.h5", "maps", tmp_path / "a.svg", metric="cam")
    text = (tmp_path / "a.svg").read_text()
    assert "1 of 4 layers; cam is defined in no other layer" in text
    assert "not proven" not in text


@pytest.mark.parametrize("name", ["tokens", "series"])
def test_inputs_that_are_no_images(name, others, tmp_path):
    onnxinfo.plot(others / f"{name}.h5", "units", tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 5000


def test_tokens_have_their_text(others, tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(f"one two word{i}" for i in range(6)))
    onnxinfo.plot(others / "tokens.h5", "units", tmp_path / "p.svg", texts=tmp_path / "t.txt")
    assert "word5" in (tmp_path / "p.svg").read_text()
    (tmp_path / "t.txt").write_text("one\n")
    with pytest.raises(UsageError, match=r"1 lines.*6 samples"):
        onnxinfo.plot(others / "tokens.h5", "units", tmp_path / "p.svg", texts=tmp_path / "t.txt")


@pytest.mark.parametrize(("options", "scales"), [({}, fakes.LAYERS), ({"scale": "shared"}, 1)])
def test_maps_have_a_color_scale_for_each_layer_or_one_for_all(options, scales, archive, tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(Axes, "imshow", recording(limits, Axes.imshow))
    onnxinfo.plot(archive, "maps", tmp_path / "p.svg", run="epoch 2", **options)
    assert len({each for each in limits if each != (None, None)}) == scales
    words = " ".join(re.findall("<text[^>]*>(.*?)</text>", (tmp_path / "p.svg").read_text()))
    assert ("with a scale for each layer" in words) == (scales > 1)


def recording(limits, imshow):
    def recorded(*args, **options):
        limits.append((options.get("vmin"), options.get("vmax")))
        return imshow(*args, **options)

    return recorded


@pytest.mark.parametrize("kind", ["compare", "difference"])
def test_labels_of_two_layers_lie_within_the_figure(kind, archive, tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: [save(self, *args, **options), drawn.append(self)]
    )
    onnxinfo.plot(archive, kind, tmp_path / "p.png", layers=[f"/layer{i}/*" for i in range(2)], width="slide")
    (figure,) = drawn
    labels = [axes.yaxis.label.get_window_extent() for axes in figure.axes if axes.get_ylabel()]
    assert labels
    assert all(each.x0 >= 0 and each.y0 >= 0 and each.y1 <= figure.bbox.y1 for each in labels)


def test_whiskers_are_percentiles_of_few_samples_too(archive, tmp_path, monkeypatch):
    boxes = []
    draw = Axes.bxp
    monkeypatch.setattr(
        Axes, "bxp", lambda self, found, *args, **options: [boxes.extend(found), draw(self, found, *args, **options)]
    )
    onnxinfo.plot(archive, "distribution", tmp_path / "p.svg", run="epoch 2", metric="sid")
    with onnxinfo.open(archive) as opened:
        values = opened["epoch 2"].values("sid")["value"]
    expected = np.percentile(values, [5, 25, 50, 75, 95], axis=1).T
    assert [[box[key] for key in ("whislo", "q1", "med", "q3", "whishi")] for box in boxes] == pytest.approx(expected)


def test_a_layer_of_one_run_has_its_error_in_a_history(tmp_path, monkeypatch):
    bars = []
    draw = Axes.errorbar
    monkeypatch.setattr(
        Axes, "errorbar", lambda self, *args, **options: [bars.append(args), draw(self, *args, **options)]
    )
    path = fakes.make(tmp_path / "a.h5", "one")
    fakes.make(path, "two", fakes.schema(layers=fakes.schema().layers[:3]))
    onnxinfo.plot(path, "history", tmp_path / "p.svg", metric="sid")
    assert [at for at, _ in bars] == [[0]]


@pytest.mark.parametrize("kind", ["overview", "curve", "distribution", "coherency"])
def test_a_run_without_values_has_no_empty_axes(kind, tmp_path, monkeypatch):
    map_of = fakes.cell
    monkeypatch.setattr(
        fakes, "cell", lambda *at: (map_of(*at)[0], map_of(*at)[1] | {"value": np.nan, "converged": False})
    )
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(metrics=(fakes.SID,)))
    with pytest.raises(UsageError, match="no finished cell of metric 'sid' has a value"):
        onnxinfo.plot(path, kind, tmp_path / "p.png")


@pytest.mark.parametrize(
    ("kind", "size", "file"), [("curve", (1, 1), "p.png"), ("overview", (2, 2), "p.svg"), ("maps", (1, 1), "p.gif")]
)
def test_texts_that_leave_no_room_are_refused(kind, size, file, archive, tmp_path):
    with pytest.raises(UsageError, match="choose a larger size"):
        onnxinfo.plot(archive, kind, tmp_path / file, run="epoch 2", size=size)
    assert [*tmp_path.iterdir()] == []


def test_one_layer_has_its_error(tmp_path):
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(layers=fakes.schema().layers[:1]))
    (axes,) = onnxinfo.plot(path, "curve", metric="sid").axes
    with onnxinfo.open(path) as opened:
        summary = layer_summary(opened["first"].values("sid"))
    middle, error = summary["value"][0], summary["stderr"][0]
    bars = [line for each in axes.collections if isinstance(each, LineCollection) for line in each.get_segments()]
    assert [bar[:, 1].tolist() for bar in bars] == [pytest.approx([middle - error, middle + error])]


def test_one_sample_is_drawn_at_its_layer_and_has_no_bands(tmp_path):
    one = {"sample_names": ["only.png"], "labels": None, "foreground": None, "thumbnails": None}
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(metrics=(fakes.PROVEN_SID,), **one))
    drawn = [line.get_xdata().tolist() for line in onnxinfo.plot(path, "certificate").axes[1].lines]
    assert [0, 1, 2, 3] in drawn
    assert "bands" not in onnxinfo.plot(path, "overview").get_supxlabel()


@pytest.mark.parametrize("several", [False, True])
def test_names_below_panels_lie_within_the_figure(several, tmp_path):
    layers = [LayerRow(f"relu_{i}", i, "Relu", f"node_{i}", i, 1, "16") for i in range(20)]
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(layers=layers))
    figure = onnxinfo.plot(path, "curve", metric=[each.name for each in fakes.METRICS][: 3 if several else 1])
    with figure.style.context():
        figure.canvas.draw()
    for axes in figure.axes:
        assert axes.xaxis.label.get_window_extent().x1 <= figure.bbox.x1
        assert "relu_19" in [text.get_text() for text in axes.get_xticklabels()]


def test_names_of_many_layers_do_not_touch_in_a_part_of_the_figure(tmp_path):
    layers = [LayerRow(f"relu_{i}", i, "Relu", f"node_{i}", i, 1, "16") for i in range(200)]
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(layers=layers, metrics=(fakes.CONCENTRATION,)))
    figure = onnxinfo.plot(path, "coherency")
    with figure.style.context():
        figure.canvas.draw()
    ticks = figure.axes[-1].get_xticks()
    places = figure.axes[-1].transData.transform([(tick, 0) for tick in ticks])[:, 0]
    assert np.diff(places).min() > figure.style.font / 72 * figure.dpi


def test_coherency_has_maps_of_metrics_that_have_them(tmp_path):
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(metrics=(fakes.SID, fakes.CONCENTRATION)))
    figure = onnxinfo.plot(path, "coherency")
    mapped = [axes.get_ylabel().split("\n")[0] for axes in figure.axes if axes.images]
    assert {*mapped} == {"sid", ""}
    assert not [text for axes in figure.axes for text in axes.texts]
    assert len([axes for axes in figure.axes if not axes.images]) == 2


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_data_give_the_same_bytes(suffix, archive, tmp_path):
    files = [tmp_path / f"{i}.{suffix}" for i in "ab"]
    for file in files:
        onnxinfo.plot(archive, "curve", file, theme="dark", width="column", title="Both epochs")
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("kind", "options", "hint"),
    [
        ("curv", {}, "did you mean 'curve'"),
        ("curve", {"overlay": True}, "does not take 'overlay'"),
        ("maps", {"metric": ["sid", "ru"]}, "shows one metric"),
        ("curve", {"metric": "sdi"}, "did you mean 'sid'"),
        ("maps", {"run": "epoch 2", "scale": "one"}, "scale 'one'; give one of layer, shared"),
    ],
)
def test_what_cannot_be_drawn(kind, options, hint, archive, tmp_path):
    with pytest.raises(UsageError, match=hint):
        onnxinfo.plot(archive, kind, tmp_path / "p.png", **options)
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    ("kind", "hint"), [("scatter", "there is only 'concentration'"), ("maps", "no metric of the runs has any")]
)
def test_what_a_run_of_one_metric_lacks(kind, hint, tmp_path):
    path = fakes.make(tmp_path / "a.h5", described=fakes.schema(metrics=(fakes.CONCENTRATION,)))
    with pytest.raises(UsageError, match=hint):
        onnxinfo.plot(path, kind, tmp_path / "p.png")


def make_pair(folder, shift=0.5, **changes):
    """Write two runs, the second of which is higher by `shift` times the layer's number."""
    paths = folder / "a.h5", folder / "b.h5"
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 4, 6))
    for number, path in enumerate(paths):
        metric = Metric("sid", fields=(), has_map=False)
        described = fakes.schema(metrics=(metric,), **(changes if number else {}))
        with RunWriter.open(path, "ab"[number], described) as writer:
            for layer in range(4):
                writer.set_normalizer("sid", layer, 1.0)
                value = np.arange(6) + noise[number, layer] + number * shift * layer
                values = {"value": value, "stderr": np.full(6, 1e-6), "converged": np.ones(6, bool)}
                writer.write("sid", layer, range(6), values=values, map=None)
    return paths, noise


def test_paired_differences(tmp_path):
    paths, noise = make_pair(tmp_path)
    rows = onnxinfo.compare(paths)
    assert [row["layer"][:7] for row in rows][:3] == ["/layer3", "/layer2", "/layer1"]
    assert all(row["paired"] for row in rows)
    difference = noise[1, 3] - noise[0, 3] + 1.5
    low, high = stats.t.interval(0.95, 5, difference.mean(), stats.sem(difference))
    assert (rows[0]["low"], rows[0]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert rows[0]["difference"] == pytest.approx(difference.mean())


def test_unpaired_differences(tmp_path):
    recipe = fakes.schema().recipe | {"samples_sha256": "cd"}
    paths, noise = make_pair(tmp_path, recipe=recipe)
    with pytest.raises(UsageError, match="samples differ"):
        onnxinfo.compare(paths)
    (row, *_) = onnxinfo.compare(paths, unpaired=True)
    found = stats.ttest_ind(np.arange(6) + noise[1, 3] + 1.5, np.arange(6) + noise[0, 3], equal_var=False)
    interval = found.confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_units_of_other_samples_make_unpaired_intervals_wider(tmp_path, caplog):
    made = fakes.schema()
    recipe = made.recipe | {"samples_sha256": "cd"}
    factors = np.array([1.1, 0.95, 1.0]).reshape(3, 1, 1)
    for name in ("alike", "other"):
        (tmp_path / name).mkdir()
    alike, _ = make_pair(tmp_path / "alike", recipe=recipe)
    other, _ = make_pair(tmp_path / "other", recipe=recipe, unit=made.unit * factors)
    with pytest.raises(UsageError, match="samples differ"):
        onnxinfo.compare(other)
    before, now = (onnxinfo.compare(paths, unpaired=True)[0] for paths in (alike, other))
    assert caplog.text.count("intervals are wider by 0.15 nats") == 1
    wider = np.log(1.1 / 0.95)
    assert (now["low"], now["high"]) == (pytest.approx(before["low"] - wider), pytest.approx(before["high"] + wider))
    (first, *_) = onnxinfo.gate(other, ["sid>+9"], unpaired=True).outcomes
    assert first.high - first.low > 2 * wider


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": fakes.schema().recipe | {"alpha": 1e-3}}, "alpha is 0.00015 in one and 0.001"),
        ({"unit": np.array([0.25, 0.5, 2.0]).reshape(3, 1, 1)}, "different units"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, changes, reason):
    paths, _ = make_pair(tmp_path, **changes)
    with pytest.raises(UsageError, match=reason):
        onnxinfo.compare(paths)


def test_comparison_by_depth_and_on_screen(tmp_path):
    paths, _ = make_pair(tmp_path)
    assert len(onnxinfo.compare(paths, by="depth")) == 4
    result = CliRunner().invoke(cli, ["compare", *map(str, paths), "--top", "2"], obj={})
    assert "b minus a" in result.output
    assert len(result.output.splitlines()) == 5


def test_layers_of_one_name_and_different_operators_are_told(tmp_path, caplog):
    """A quantized network has a ReLU's name at the sum before it."""
    one = fakes.make(tmp_path / "a.h5", "float")
    layers = fakes.schema().layers
    other = fakes.schema(layers=[dataclasses.replace(layers[0], op="Add"), *layers[1:]])
    two = fakes.make(tmp_path / "b.h5", "int8", other)
    onnxinfo.compare([one, two], by="depth")
    assert "correspond" not in caplog.text
    onnxinfo.compare([one, two])
    assert f"'{layers[0].name}' ({layers[0].op}, Add); they may not correspond" in caplog.text
    caplog.clear()
    onnxinfo.compare([one, fakes.make(tmp_path / "c.h5", "again")])
    assert "correspond" not in caplog.text


def test_runs_of_one_name_are_told_apart_by_their_archives(tmp_path):
    paths = [fakes.make(tmp_path / f"{name}.h5", "same") for name in "ab"]
    rows = onnxinfo.compare(paths)
    assert {(row["run"], row["other"]) for row in rows} == {("same (a.h5)", "same (b.h5)")}
    result = CliRunner().invoke(cli, ["compare", *map(str, paths)], obj={})
    assert result.output.startswith("same (b.h5) minus same (a.h5):")
    changed = fakes.schema(recipe=fakes.schema().recipe | {"alpha": 1e-3})
    with pytest.raises(UsageError, match=r"runs 'same \(a.h5\)' and 'same \(c.h5\)' cannot be compared"):
        onnxinfo.compare([paths[0], fakes.make(tmp_path / "c.h5", "same", changed)])


@pytest.fixture
def analyzed(tmp_path):
    """A bundled model, an archive with numbers of its first four layers, and these."""
    model = bundled("digits-cnn.onnx")
    layers = [layer for layer in onnxinfo.list_layers(model) if layer.default][:4]
    recipe = fakes.schema().recipe | {"model_sha256": onnxinfo.load(model).sha256}
    archive = fakes.make(tmp_path / "a.h5", "first", fakes.schema(layers=layers, recipe=recipe))
    return model, archive, layers


def test_annotated_models_compute_the_same(analyzed, tmp_path):
    model, archive, _ = analyzed
    arguments = ["annotate", str(model), str(archive), "-o", str(tmp_path / "one.onnx")]
    assert CliRunner().invoke(cli, arguments, obj={"quiet": True}).exit_code == 0
    onnx.checker.check_model(onnx.load(tmp_path / "one.onnx"))
    images = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    outputs = [
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
        for file in (str(model), str(tmp_path / "one.onnx"))
    ]
    assert outputs[0].tobytes() == outputs[1].tobytes()


def test_annotations_are_plain_numbers(analyzed, tmp_path):
    model, archive, layers = analyzed
    onnxinfo.annotate(model, archive, tmp_path / "one.onnx")
    written = onnx.load(tmp_path / "one.onnx")
    found = {n.output[0]: {p.key: p.value for p in n.metadata_props} for n in written.graph.node if n.metadata_props}
    assert list(found) == [layer.name for layer in layers]
    for row in onnxinfo.query(archive, metrics="sid"):
        properties = found[row["layer"]]
        assert properties["onnxinfo.run"] == "first"
        assert float(properties["onnxinfo.sid"]) == row["value"]
        assert float(properties["onnxinfo.sid.stderr"]) == row["stderr"]
        present = row["n"] - row["n_missing"]
        assert int(properties["onnxinfo.sid.samples"]) == present
        assert int(properties["onnxinfo.sid.unproven"]) == present - row["n_converged"]
        assert int(properties["onnxinfo.sid.missing"]) == row["n_missing"]
        assert ("onnxinfo.sid.gap" in properties) == bool(np.isfinite(row["gap"]))


def test_the_layers_of_one_node_are_told_apart(tmp_path):
    split = helper.make_node("Split", ["x"], ["left", "right"], axis=1, num_outputs=2)
    proto = graphs.model(
        [split], [graphs.value("x")], [graphs.value("left", ("N", 2)), graphs.value("right", ("N", 2))]
    )
    model = onnxinfo.load(proto)
    recipe = fakes.schema().recipe | {"model_sha256": model.sha256}
    layers = onnxinfo.select_layers(onnxinfo.list_layers(model), ["left", "right"])
    archive = fakes.make(tmp_path / "a.h5", "first", fakes.schema(layers=layers, recipe=recipe))
    assert onnxinfo.annotate(proto, archive, tmp_path / "out.onnx", metrics="sid") == 1
    (node,) = onnx.load(tmp_path / "out.onnx").graph.node
    found = {entry.key: entry.value for entry in node.metadata_props}
    values = {row["layer"]: row["value"] for row in onnxinfo.query(archive, metrics="sid")}
    assert (float(found["onnxinfo.sid"]), float(found["onnxinfo.right.sid"])) == (values["left"], values["right"])


def test_node_data_for_model_explorer(analyzed, tmp_path):
    model, archive, _ = analyzed
    file = tmp_path / "sid.json"
    arguments = ["annotate", str(model), str(archive), "--format", "model-explorer", "-o", str(file)]
    assert CliRunner().invoke(cli, [*arguments, "--metric", "sid"], obj={"quiet": True}).exit_code == 0
    ((graph, data),) = json.loads(file.read_text()).items()
    proto = onnxinfo.load(model).proto
    assert graph == proto.graph.name
    assert data["name"] == "sid, run first"
    nodes = {node.name: node.output[0] for node in proto.graph.node}
    values = {row["layer"]: row["value"] for row in onnxinfo.query(archive, metrics="sid")}
    assert {nodes[name]: result["value"] for name, result in data["results"].items()} == values
    assert [stop["stop"] for stop in data["gradient"]] == [0, 0.5, 1]
    many = CliRunner().invoke(cli, [*arguments, "--metric", "sid", "--metric", "ru"], obj={"quiet": True})
    assert (many.exit_code, "a file of node data has one metric" in many.output) == (2, True)


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """A bundled model, and a function that analyzes layers of it and returns the archive and the values."""
    model, folder = bundled("digits-cnn.onnx"), tmp_path_factory.mktemp("parts")

    def of(*layers):
        archive = folder / f"{len(list(folder.iterdir()))}.h5"
        onnxinfo.analyze(
            model, f"{bundled('digits.npz')}:images", archive, run="r", layers=layers, limit=2, metrics="sid"
        )
        return archive, {row["layer"]: row["value"] for row in onnxinfo.query(archive)}

    return model, of


@pytest.mark.parametrize("whole", [["logits"], []])
def test_parts_are_annotated_at_the_node_of_the_whole(parted, tmp_path, whole):
    model, of = parted
    archive, values = of("logits[3]", "logits[4:6]", *whole)
    assert onnxinfo.annotate(model, archive, tmp_path / "out.onnx") == 1
    (node,) = [node for node in onnx.load(tmp_path / "out.onnx").graph.node if node.metadata_props]
    assert "logits" in node.output
    found = {entry.key: entry.value for entry in node.metadata_props}
    assert len(found) == len(node.metadata_props)
    names = {"logits[3]": "logits[3].", "logits[4:6]": "logits[4:6].", "logits": ""}
    assert {name: float(found[f"onnxinfo.{names[name]}sid"]) for name in values} == values
    assert ("onnxinfo.sid" in found) == bool(whole)
    # Another call replaces them.
    onnxinfo.annotate(onnxinfo.load(model), of("logits[3]")[0], tmp_path / "out.onnx")
    (node,) = [node for node in onnx.load(tmp_path / "out.onnx").graph.node if node.metadata_props]
    assert not [entry for entry in node.metadata_props if "[4:6]" in entry.key]


@pytest.mark.parametrize("whole", [["logits"], []])
def test_node_data_of_parts_name_them(parted, tmp_path, whole, caplog):
    model, of = parted
    archive, values = of("logits[3]", "logits[4:6]", *whole)
    assert onnxinfo.node_data(model, archive, tmp_path / "a.json") == 1
    (data,) = json.loads((tmp_path / "a.json").read_text()).values()
    (result,) = data["results"].values()
    shown = "logits" if whole else "logits[3]"
    assert result["value"] == values[shown]
    assert data["name"] == ("sid, run r" if whole else "sid (logits[3]), run r")
    (warning,) = caplog.messages
    assert all(name in warning for name in values if name != shown)


def test_layers_that_no_node_computes_are_named(tmp_path, caplog):
    """Here one of the run's layers does not exist in the model, as a tensor that the analysis itself had added."""
    model = bundled("digits-cnn.onnx")
    layer = next(layer for layer in onnxinfo.list_layers(model) if layer.name == "logits")
    recipe = fakes.schema().recipe | {"model_sha256": onnxinfo.load(model).sha256}
    names = ("logits", "added")
    rows = {name: dataclasses.replace(layer, name=name) for name in names}
    both = fakes.make(tmp_path / "both.h5", "r", fakes.schema(layers=[rows[name] for name in names], recipe=recipe))
    assert onnxinfo.annotate(model, both, tmp_path / "out.onnx", metrics="sid") == 1
    assert "computes 'added'" in caplog.text
    none = fakes.make(tmp_path / "none.h5", "r", fakes.schema(layers=[rows["added"]], recipe=recipe))
    for write, name in ((onnxinfo.annotate, "none.onnx"), (onnxinfo.node_data, "none.json")):
        options = {"metric": "sid"} if write is onnxinfo.node_data else {}
        with pytest.raises(onnxinfo.ModelError, match=r"no node of the model computes 'added' of run 'r'") as caught:
            write(model, none, tmp_path / name, **options)
        assert caught.value.exit_code == 1
        assert not (tmp_path / name).exists()


def test_only_the_runs_own_model_is_annotated(tmp_path):
    archive = fakes.make(tmp_path / "a.h5", "first")
    with pytest.raises(UsageError, match=r"no run is of this model.*'first'"):
        onnxinfo.annotate(bundled("digits-cnn.onnx"), archive, tmp_path / "out.onnx")


@pytest.mark.parametrize("given", [["curve"], ["curve", "a.h5"], ["maps", "a.h5", "b.h5"]])
def test_the_kind_of_plot_comes_last(given):
    result = CliRunner().invoke(cli, ["plot", *given, "-o", "p.png"], standalone_mode=False)
    assert "give archives, then the kind of plot: onnxinfo plot result.h5 curve" in str(result.exception)
