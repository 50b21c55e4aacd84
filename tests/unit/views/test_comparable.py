"""Several runs side by side: a caution where a setting differs, and layers from the input on."""

import json
from dataclasses import replace

import archive_fakes as fakes
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.cli import cli
from onnxinfo.registry import PLOTS
from onnxinfo.views.comparable import Measured, incomparable, unit_shift
from onnxinfo.views.plots import history
from onnxinfo.views.selection import Selection

WHOLE = fakes.schema()
#: Few layers and samples: what is drawn of each takes most of the time.
SCALED = fakes.schema(
    recipe=WHOLE.recipe | {"scale": 1.0}, layers=WHOLE.layers[:2], sample_names=WHOLE.sample_names[:3],
    labels=WHOLE.labels[:3], foreground=WHOLE.foreground[:3], thumbnails=WHOLE.thumbnails[:3],
)  # fmt: skip


@pytest.fixture
def archives(tmp_path):
    other = replace(SCALED, recipe=SCALED.recipe | {"scale": 0.5})
    for name, described in (("a", SCALED), ("b", other), ("c", SCALED)):
        fakes.make(tmp_path / f"{name}.h5", name, described)
    return tmp_path


DIFFERENCE = "runs 'a' and 'b' are not comparable: scale is 1.0 in one and 0.5 in the other"
#: Plots that refuse several runs, or runs of different settings.
REFUSED = dict.fromkeys(("overview", "units", "columns", "certificate"), "one run") | {
    "sensitivity": "no metric 'sensitivity'",
    "compare": "cannot be compared: scale",
}


@pytest.mark.parametrize("kind", [name for name in PLOTS.names() if name not in REFUSED])
def test_runs_of_different_preprocessing_are_drawn_with_a_caution(archives, caplog, kind):
    figure = archives / "figure.svg"
    options = {"against": "gradient"} if kind == "scatter" else {}
    onnxinfo.plot([archives / "a.h5", archives / "c.h5"], kind, figure, **options)
    assert "caution" not in caplog.text + figure.read_text()
    onnxinfo.plot([archives / "a.h5", archives / "b.h5"], kind, figure, force=True, **options)
    assert caplog.text.count(DIFFERENCE) == 1
    assert "caution" in figure.read_text()


@pytest.mark.parametrize("kind", REFUSED)
def test_other_plots_refuse_them(archives, kind):
    with pytest.raises(UsageError, match=REFUSED[kind]):
        onnxinfo.plot([archives / "a.h5", archives / "b.h5"], kind, archives / "figure.svg")


def test_a_table_of_them_has_a_caution(archives):
    files = [str(archives / name) for name in ("a.h5", "b.h5")]
    table, lines, rows = (
        CliRunner().invoke(cli, ["query", *files, "--format", format]) for format in ("table", "csv", "json")
    )
    for each in (table, lines, rows):
        assert f"warning: caution, {DIFFERENCE}" in each.stderr
    assert "caution" not in table.stdout + lines.stdout
    assert {row["caution"] for row in json.loads(rows.stdout)} == {f"caution, {DIFFERENCE}"}
    alone = CliRunner().invoke(cli, ["query", files[0], "--format", "json"])
    assert "caution" not in alone.output


def test_a_report_of_them_has_a_caution(archives):
    onnxinfo.report([archives / "a.h5", archives / "b.h5"], archives / "report.html")
    assert (
        "Caution, runs &#39;a&#39; and &#39;b&#39; are not comparable: scale" in (archives / "report.html").read_text()
    )


def test_the_step_that_differs_is_named(archives):
    for name, preset in (("e", "cifar10"), ("f", None)):
        steps = {"preprocessing": {"scale": 1.0, "preset": preset}}
        fakes.make(archives / f"{name}.h5", name, replace(SCALED, recipe=SCALED.recipe | steps))
    (row, *_) = onnxinfo.query([archives / "e.h5", archives / "f.h5"])
    assert row["caution"].endswith(": preprocessing differs: preset is cifar10 in one and none in the other")


def test_inputs_of_different_units_are_not_comparable(archives, caplog):
    fakes.make(archives / "d.h5", "d", replace(SCALED, unit=SCALED.unit * 1.1))
    assert onnxinfo.query([archives / "a.h5", archives / "d.h5"])[0]["caution"].endswith("(standard deviations)")


def test_a_history_lists_the_layers_of_all_runs_by_depth(tmp_path, monkeypatch):
    """The first run lacks the layer in the middle."""
    listed = []
    monkeypatch.setattr(history, "_lines", lambda axes, runs, names: listed.extend(names))
    monkeypatch.setattr(Figure, "legend", lambda self, *args, **options: None)
    whole = fakes.schema()
    rows = [*whole.layers]
    for name, layers in (("a", [rows[0], *rows[2:]]), ("b", rows)):
        fakes.make(tmp_path / f"{name}.h5", name, replace(whole, layers=layers))
    onnxinfo.plot([tmp_path / "a.h5", tmp_path / "b.h5"], "history", tmp_path / "figure.svg")
    assert listed == [row.name for row in rows]


@pytest.mark.parametrize("kind", ["curve", "scatter", "coherency", "difference"])
def test_runs_of_one_name_are_told_apart(tmp_path, kind):
    """Runs are named after the model, so archives of one model have runs of one name."""
    both = [fakes.make(tmp_path / file, "net", SCALED) for file in ("one.h5", "two.h5")]
    options = {"against": "gradient"} if kind == "scatter" else {"samples": 0} if kind == "coherency" else {}
    onnxinfo.plot(both, kind, tmp_path / "a.svg", **options)
    text = (tmp_path / "a.svg").read_text()
    assert "net (one.h5)" in text
    assert "net (two.h5)" in text


def test_a_caution_tells_runs_of_one_name_apart(tmp_path, caplog):
    other = replace(SCALED, recipe=SCALED.recipe | {"scale": 0.5})
    both = [fakes.make(tmp_path / file, "net", made) for file, made in (("one.h5", SCALED), ("two.h5", other))]
    onnxinfo.plot(both, "curve", tmp_path / "a.svg")
    assert "runs 'net (one.h5)' and 'net (two.h5)' are not comparable" in caplog.text


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    both = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        both.append(fakes.make(tmp_path / folder / "a.h5", "net", fakes.table_schema()))
    assert [*Selection.of(both).titles().values()] == [f"net ({each})" for each in both]


def test_rounding_of_the_unit_makes_no_difference(tmp_path):
    """Devices sum the standard deviation in another order."""
    made = fakes.table_schema()
    one, two = (
        Measured(name, made.recipe, unit, frozenset({"sid"}))
        for name, unit in (("a", made.unit), ("b", made.unit * 1.0001))
    )
    assert incomparable(one, two, {"sid"}) == ""
    assert "units" in incomparable(one, replace(two, unit=made.unit[:3]), {"sid"})


def test_metrics_without_input_units_are_compared_whatever_these_are():
    made = fakes.table_schema()
    one, two = (Measured(name, {}, unit, frozenset()) for name, unit in (("a", made.unit), ("b", made.unit * 3)))
    assert incomparable(one, two, {"sensitivity", "cka", "vinfo", "probe", "gradient"}) == ""
    assert "units" in incomparable(one, two, {"sensitivity", "robustness"})


def test_metrics_without_noise_are_compared_whatever_its_amount():
    made = fakes.table_schema()
    one, two = (Measured("", {"alpha": each, "normalizer": each}, made.unit, frozenset()) for each in (1, 2))
    assert incomparable(one, two, {"sensitivity", "cka", "vinfo", "probe", "gradient", "robustness"}) == ""
    assert "normalize_by" in incomparable(one, two, {"cka", "sid"})
    assert "normalize_by" in incomparable(one, two, {"metric of another package"})


@pytest.mark.parametrize("seed", range(5))
def test_the_shift_bounds_what_units_change_in_a_linear_layer(seed):
    """Closed form: log sigma_i = log(budget / n) / 2 - log |J_i u_i|; it is absolute or alpha sum (J_i u_i)^2."""
    generator = np.random.default_rng(seed)
    jacobian, unit = generator.standard_normal(30), np.exp(generator.standard_normal(30))
    other = unit * np.exp(0.2 * generator.standard_normal(30)) * np.exp(generator.normal())
    shift = unit_shift(*(Measured("", {}, each, frozenset()) for each in (unit, other)), "sid")
    for budget in (lambda u: 0.01 * np.square(jacobian * u).sum(), lambda u: 1.0):
        logs = [np.log(budget(u) / 30) / 2 - np.log(np.abs(jacobian * u)) for u in (unit, other)]
        inside = logs[1] - logs[0]
        assert abs(inside.mean()) <= shift
        # Concentration: one mean minus another.
        assert abs(inside[:10].mean() - inside[10:].mean()) <= shift


def test_noise_on_different_inputs_is_not_comparable():
    made = fakes.table_schema()
    one, two = (Measured(name, {"perturbed": [name]}, made.unit, frozenset({"sid"})) for name in ("a", "b"))
    assert incomparable(one, two, {"sid"}) == "noise was added to a in one and to b in the other"


def test_settings_of_a_metric_that_is_not_shown_may_differ(tmp_path):
    made = [fakes.table_schema(recipe=fakes.schema().recipe | {"foreground_boxes": each}) for each in ("a", "b")]
    both = [fakes.make(tmp_path / f"{name}.h5", name, each) for name, each in zip("cd", made, strict=True)]
    assert "caution" in onnxinfo.query(both)[0]
    assert "caution" not in onnxinfo.query(both, metrics=["sid"])[0]


def at_alphas(path, names=("alpha=0.001", "small alpha=0.01"), **changes):
    """Write runs at alphas 0.001 and 0.01; the second one has other settings, too."""
    for name, alpha, more in zip(names, (1e-3, 1e-2), ({}, changes), strict=True):
        fakes.make(path, name, replace(SCALED, recipe=SCALED.recipe | {"alpha": alpha} | more))
    return path


def test_runs_whose_names_say_their_alphas_need_no_caution(tmp_path, caplog):
    path = at_alphas(tmp_path / "a.h5")
    assert "caution" not in onnxinfo.query(path)[0]
    assert "caution" not in onnxinfo.query(path, group_by="run")[0]
    assert "caution" not in onnxinfo.query([path, at_alphas(tmp_path / "b.h5")])[0]
    for kind in ("curve", "maps", "difference", "history", "distribution"):
        onnxinfo.plot(path, kind, tmp_path / f"{kind}.svg")
        text = (tmp_path / f"{kind}.svg").read_text()
        assert "caution" not in text
        assert "alpha=0.001" in text
        assert "small alpha=0.01" in text
    onnxinfo.report(path, tmp_path / "report.html")
    assert "Caution, runs" not in (tmp_path / "report.html").read_text()
    assert "caution" not in caplog.text


@pytest.mark.parametrize("options", [{"group_by": "layer"}, {"sql": "SELECT layer, value FROM results"}])
def test_alphas_in_rows_that_do_not_name_their_runs_have_a_caution(tmp_path, options):
    (row, *_) = onnxinfo.query(at_alphas(tmp_path / "a.h5"), **options)
    assert row["caution"].endswith("alpha is 0.001 in one and 0.01 in the other")


@pytest.mark.parametrize("names", [("a", "b"), ("alpha=0.001", "b"), ("alpha=0.001", "alpha=0.1"), ("0.001", "0.01")])
def test_alphas_that_the_names_do_not_say_have_a_caution(tmp_path, names):
    (row, *_) = onnxinfo.query(at_alphas(tmp_path / "a.h5", names))
    assert row["caution"].endswith("alpha is 0.001 in one and 0.01 in the other")


def test_another_setting_than_alpha_has_a_caution(tmp_path):
    (row, *_) = onnxinfo.query(at_alphas(tmp_path / "a.h5", scale=0.5))
    assert row["caution"].endswith("scale is 1.0 in one and 0.5 in the other")


def test_a_comparison_of_alphas_is_refused_whatever_the_names(tmp_path):
    with pytest.raises(UsageError, match="alpha is"):
        onnxinfo.compare(at_alphas(tmp_path / "a.h5"))
