"""Conditions on differences between runs: what fails, what passes, what stays undecided."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import archive_fakes as fakes
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from places import ROOT

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.archive.sanity import SanityCard
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli
from onnxinfo.models import path as path_of
from onnxinfo.views import gate as gating
from onnxinfo.views.compare import Side
from onnxinfo.views.gate import Condition
from onnxinfo.views.run_values import RunValues
from onnxinfo.views.style import short_names

RECIPE = fakes.schema().recipe | {"samples_sha256": "cd" * 32}
NET, DIGITS = path_of("digits-cnn.onnx"), path_of("digits.npz")
NAMES = [row.name for row in fakes.schema().layers]


def write_run(path, *given, **changes):
    """Write a run, or what was written by an earlier call like this one; see ``computed_run``."""
    return fakes.written(path, ("gate", given, changes), lambda: computed_run(path, *given, **changes))


def computed_run(
    path, name, shift=(0.0,) * 4, unproven=(), correct=None, seed=0, layers=None, finished=None, **changes
):
    """Write a run whose SID is shifted by layer, with noise, of 6 samples; finished: numbers of samples by layer.

    dead: cells without a value.
    """
    dead = changes.pop("dead", ())
    if correct is not None:
        labels, classes = np.resize(changes.pop("others", 0), 6), changes.pop("classes", 3)
        predicted = np.where(correct, labels, 1 - labels)
        changes |= {"labels": labels, "predicted": predicted, "probability": np.ones(6)}
        usable = labels < classes
        accuracy = float(np.mean(np.array(correct)[usable]))
        card = SanityCard("x", 6, {}, classes=classes, labeled=int(usable.sum()), accuracy=accuracy)
        changes["provenance"] = fakes.schema().provenance | {"sanity": card.to_dict()}
    changes.setdefault("recipe", RECIPE)
    described = fakes.schema(metrics=[fakes.PROVEN_SID], **changes)
    if layers is not None:
        changes |= {"layers": [described.layers[i] for i in layers]}
        described = fakes.schema(metrics=[fakes.PROVEN_SID], **changes)
    generator = np.random.default_rng(seed)
    with RunWriter.open(path, name, described) as writer:
        for layer in range(len(described.layers)):
            writer.set_normalizer("sid", layer, 1.0)
            values = np.arange(6) * 0.1 + shift[layer] + 1e-3 * generator.standard_normal(6)
            values[[sample for sample in range(6) if (layer, sample) in dead]] = np.nan
            proven = np.array([(layer, sample) not in {*unproven, *dead} for sample in range(6)])
            numbers = {"value": values, "stderr": np.full(6, 1e-6), "converged": proven, "gap": np.full(6, 0.01)}
            numbers |= {field.name: np.zeros(6) for field in fakes.PROVEN_SID.fields if field.name not in numbers}
            maps = np.zeros((6, *fakes.IMAGE), np.float32)
            count = 6 if finished is None else finished[layer]
            numbers = {key: each[:count] for key, each in numbers.items()}
            if count:
                writer.write("sid", layer, range(count), values=numbers, map=maps[:count])
    return path


@pytest.mark.parametrize(
    ("text", "quantity", "layers", "beyond", "threshold"),
    [
        ("sid:relu_18>+0.05", "sid", "relu_18", ">", 0.05),
        ("sid:relu_*<-0.1", "sid", "relu_*", "<", -0.1),
        ("accuracy < -1e-2", "accuracy", "", "<", -0.01),
        ("unproven>+.5", "unproven", "", ">", 0.5),
        ("sid:a:b>c<->+0", "sid", "a:b>c<-", ">", 0.0),
    ],
)
def test_conditions_are_read(text, quantity, layers, beyond, threshold):
    found = Condition.parse(text)
    assert (found.quantity, found.layers, found.beyond, found.threshold) == (quantity, layers, beyond, threshold)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sid:relu_18>0.05", "needs a sign"),
        ("sid:relu_18", "expected QUANTITY"),
        ("sid:relu_18>+", "expected QUANTITY"),
        ("sid:relu_18>+nan", "expected QUANTITY"),
        ("sid:relu_18>+1e999", "too large for a float"),
        ("", "expected QUANTITY"),
        ("accuracy:relu>+0.1", "not of a layer"),
    ],
)
def test_other_conditions_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        Condition.parse(text)


@pytest.mark.parametrize(
    ("beyond", "interval", "status"),
    [
        (">", (0.11, 0.2), "failed"),
        (">", (0.1, 0.2), "undecided"),
        (">", (0.0, 0.1), "passed"),
        ("<", (-0.3, -0.2), "failed"),
        ("<", (-0.2, -0.05), "undecided"),
        ("<", (-0.1, 0.2), "passed"),
        (">", (np.nan, np.nan), "undecided"),
    ],
)
def test_only_whole_intervals_beyond_the_threshold_fail(beyond, interval, status):
    threshold = 0.1 if beyond == ">" else -0.1
    assert Condition("", "sid", "", beyond, threshold).judge(*interval) == status


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and one whose last layer is .2 higher, with wrong predictions, and unproven cells in layer 1."""
    path = tmp_path_factory.mktemp("gate") / "a.h5"
    write_run(path, "a", correct=[True] * 6, seed=1)
    unproven = [(1, sample) for sample in range(6)]
    return write_run(path, "b", (0, 0, 0, 0.2), unproven=unproven, correct=[False] * 6, seed=2)


def statuses(verdict):
    return {outcome.layer: outcome.status for outcome in verdict.outcomes}


def test_a_layer_fails_by_itself(runs):
    verdict = onnxinfo.gate(runs, ["sid>+0.1"])
    assert statuses(verdict) == {name: "failed" if name == NAMES[3] else "passed" for name in NAMES}
    assert not verdict.passed
    assert onnxinfo.gate(runs, ["sid>+0.3"]).passed
    assert onnxinfo.gate(runs, [f"sid:{NAMES[0]}>+0.1"]).passed
    assert not onnxinfo.gate(runs, ["sid:-1>+0.1"]).passed
    # In the other direction, the last layer is .2 lower.
    assert not onnxinfo.gate(runs, ["sid<-0.1"], run=["b", "a"]).passed


def test_unproven_cells_and_accuracy_are_judged(runs):
    for name in NAMES:
        status = "failed" if name == NAMES[1] else "undecided"
        assert statuses(onnxinfo.gate(runs, [f"unproven:{name}>+0"])) == {name: status}
    (outcome,) = onnxinfo.gate(runs, ["accuracy<-0.01"]).outcomes
    assert (outcome.status, outcome.n, outcome.difference) == ("failed", 6, -1)
    assert onnxinfo.gate(runs, ["accuracy<-0.01"], run=["b", "a"]).passed


@pytest.mark.parametrize(
    ("condition", "reason"),
    [("ru>+0", "ru"), ("sid:relu_77>+0", "relu_77"), ("sid", "expected QUANTITY")],
)
def test_conditions_about_nothing_are_refused(runs, condition, reason):
    with pytest.raises(UsageError, match=reason):
        onnxinfo.gate(runs, [condition])
    with pytest.raises(UsageError, match="no condition"):
        onnxinfo.gate(runs, [])


def test_layers_that_a_run_lacks_are_named(tmp_path, caplog):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b", layers=[0, 1])
    verdict = onnxinfo.gate(path, ["sid>+0.1"])
    assert verdict.passed
    assert verdict.missing == tuple(NAMES[2:])
    assert NAMES[3] in caplog.text
    with pytest.raises(UsageError, match=r"run 'b' has nothing to compare with .* of run 'a'"):
        onnxinfo.gate(path, [f"sid:{NAMES[3]}>+0.1"])
    with pytest.raises(UsageError, match="run 'a' has no accuracy"):
        onnxinfo.gate(path, ["accuracy<-0.1"])


@pytest.mark.parametrize("which", ["a", "b"])
def test_an_unfinished_run_does_not_pass(tmp_path, which):
    """Layer 2 has 4 of 6 samples, and layer 3 has none, of the first run or of the other one."""
    path = tmp_path / "a.h5"
    for name in "ab":
        write_run(path, name, (0.2 * (name == "b"), 0, 0, 0), finished=[6, 6, 4, 0] if name == which else None)
    verdict = onnxinfo.gate(path, ["sid>+0.3"])
    assert [statuses(verdict)[name] for name in NAMES] == ["passed", "passed", "incomplete", "incomplete"]
    assert [outcome.unfinished for outcome in verdict.outcomes] == [0, 0, 2, 6]
    assert (verdict.passed, verdict.incomplete) == (False, True)
    assert verdict.to_dict()["counts"]["incomplete"] == 2
    assert "6 samples are unfinished" in str(verdict)
    # What fails in spite of it fails.
    failed = onnxinfo.gate(path, ["sid>+0.1"])
    assert (failed.passed, failed.incomplete) == (False, False)
    # Conditions and selections about finished cells pass, and so does what the user allows.
    assert onnxinfo.gate(path, [f"sid:{NAMES[1]}>+0.3"]).passed
    assert onnxinfo.gate(path, [f"sid:{NAMES[2]}>+0.3"], samples="0-3").passed
    assert onnxinfo.gate(path, ["sid>+0.3"], incomplete=True).passed


@pytest.mark.parametrize("which", ["a", "b"])
@pytest.mark.parametrize("condition", ["sid:{}>+9", "unproven:{}>+.9"])
def test_a_layer_without_a_finished_sample_does_not_pass(tmp_path, which, condition):
    path = tmp_path / "a.h5"
    for name in "ab":
        write_run(path, name, finished=[6, 6, 6, 0] if name == which else None)
    verdict = onnxinfo.gate(path, [condition.format(NAMES[3])])
    assert (verdict.outcomes[0].status, verdict.outcomes[0].unfinished) == ("incomplete", 6)


def test_layers_matched_by_depth_need_finished_runs(tmp_path):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b", finished=[6, 6, 6, 0])
    assert {*statuses(onnxinfo.gate(path, ["sid>+9"], by="depth")).values()} == {"incomplete"}


@pytest.mark.parametrize("which", ["a", "b"])
@pytest.mark.parametrize("layers", [[0, 0, 0, 0], [6, 6, 0, 6], [6, 6, 2, 6]])
def test_unproven_cells_of_an_unfinished_metric_do_not_pass(tmp_path, which, layers):
    """The gradient of one run is wholly or partly unfinished, of all layers or one, and SID is not."""
    path, gradient = tmp_path / "a.h5", fakes.GRADIENT
    for name in "ab":
        described = fakes.schema(recipe=RECIPE, metrics=[fakes.PROVEN_SID, gradient])
        with RunWriter.open(path, name, described) as writer:
            for layer in range(4):
                for metric in described.metrics:
                    count = layers[layer] if metric is gradient and name == which else 6
                    numbers = {field: np.zeros(count) for field in ("value", "stderr")}
                    numbers |= {field.name: np.zeros(count) for field in metric.fields}
                    numbers |= {"converged": np.ones(count, bool)}
                    if metric is not gradient:
                        writer.set_normalizer("sid", layer, 1.0)
                    if count:
                        maps = np.zeros((count, *fakes.IMAGE), np.float32)
                        writer.write(metric.name, layer, range(count), values=numbers, map=maps)
    verdict = onnxinfo.gate(path, ["unproven>+.9"])
    left = {name for name, count in zip(NAMES, layers, strict=True) if count < 6}
    assert {each.layer for each in verdict.outcomes if each.status == "incomplete"} == left
    assert {each.quantity for each in verdict.outcomes if each.status == "incomplete"} == {"unproven (gradient)"}
    assert {each.layer for each in verdict.outcomes if each.quantity == "unproven (sid)"} == {*NAMES}
    named = onnxinfo.gate(path, [f"unproven:{NAMES[2]}>+.9"])
    assert not named.passed
    assert onnxinfo.gate(path, ["unproven>+.9"], incomplete=True).passed


def test_metrics_of_labels_are_not_judged_by_other_labels(tmp_path):
    """The same samples, sorted into two and into three classes: probes of these answer different questions."""
    metrics = [replace(fakes.CONCENTRATION, name=name) for name in ("probe", "vinfo")]
    for classes in (2, 3):
        made = fakes.schema(recipe=RECIPE, metrics=metrics, labels=np.arange(6) % classes)
        fakes.make(tmp_path / f"{classes}.h5", f"of {classes}", made)
    both = [tmp_path / "2.h5", tmp_path / "3.h5"]
    why = "cannot be compared: the same samples have other labels, which {} about; analyze both alike"
    with pytest.raises(UsageError, match=why.format("probe is")):
        onnxinfo.gate(both, "probe<-0.01")
    with pytest.raises(UsageError, match=why.format("vinfo is")):
        onnxinfo.gate(both, "vinfo<-0.01")
    for view in (onnxinfo.compare, onnxinfo.power):
        with pytest.raises(UsageError, match=why.format("probe and vinfo are")):
            view(both)
    assert "other labels" in onnxinfo.query(both)[0]["caution"]


def test_probes_of_other_samples_are_judged_if_these_have_classes_in_common(tmp_path):
    probe, paths = replace(fakes.CONCENTRATION, name="probe"), {}
    for name, labels in (("a", [0, 1, 2] * 2), ("b", [1, 2, 3] * 2), ("c", [3, 4, 5] * 2)):
        recipe = RECIPE | {"samples_sha256": 32 * f"{ord(name):x}"}
        paths[name] = tmp_path / f"{name}.h5"
        fakes.make(paths[name], name, fakes.schema(recipe=recipe, metrics=[probe], labels=np.array(labels)))
    onnxinfo.gate([paths["a"], paths["b"]], "probe<-0.9", unpaired=True)
    with pytest.raises(UsageError, match="their labels have no class in common, which probe is about"):
        onnxinfo.gate([paths["a"], paths["c"]], "probe<-0.9", unpaired=True)
    assert "no class in common" in onnxinfo.query([paths["a"], paths["c"]])[0]["caution"]


def test_accuracy_is_judged_whatever_the_noise(tmp_path):
    """It depends neither on the budget nor on the input that gets noise."""
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    settings = {"alpha": 1e-4, "perturbed": ["a"]}, {"alpha": 1e-3, "perturbed": ["a", "b"]}
    for path, changed in zip(paths, settings, strict=True):
        write_run(path, path.stem, correct=[True] * 6, recipe=RECIPE | changed)
    (outcome,) = onnxinfo.gate(paths, "accuracy<-0.9").outcomes
    assert outcome.status == "passed"
    with pytest.raises(UsageError, match="noise was added to a in one"):
        onnxinfo.gate(paths, "sid<-0.9")


def test_accuracy_by_other_labels_is_not_judged(tmp_path):
    path = write_run(tmp_path / "a.h5", "a", correct=[True] * 6)
    write_run(path, "b", correct=[False] * 6, others=1)
    with pytest.raises(UsageError, match="the labels of runs 'a' and 'b' differ"):
        onnxinfo.gate(path, ["accuracy<-0.01"])
    assert onnxinfo.gate(path, ["sid>+9"]).passed


@pytest.mark.parametrize("samples", ["same", "other"])
def test_accuracy_does_not_pass_on_labels_that_one_model_lacks(tmp_path, samples):
    """A candidate without a class misclassifies its samples; to leave them out would hide that."""
    path = tmp_path / "a.h5"
    for run, classes, digest in (("a", 3, "cd"), ("b", 2, "cd" if samples == "same" else "ef")):
        given = {"others": [0, 0, 2], "classes": classes, "recipe": RECIPE | {"samples_sha256": digest * 32}}
        write_run(path, run, correct=[True] * 6, **given)
    verdict = onnxinfo.gate(path, ["accuracy<-0.99"], unpaired=True)
    assert (verdict.outcomes[0].status, verdict.outcomes[0].lost, verdict.passed) == ("incomplete", 2, False)
    assert onnxinfo.gate(path, ["accuracy<-0.99"], unpaired=True, incomplete=True).passed


def test_the_copy_of_a_growing_run_is_no_run_to_compare(tmp_path):
    path = write_run(tmp_path / "a.h5", "w")
    write_run(tmp_path / "b.h5", "v")
    with h5py.File(path, "r+") as file:
        file.copy("w", "w~")
    assert {row["run"] for row in onnxinfo.query(path)} == {"w"}
    outcomes = onnxinfo.gate([path, tmp_path / "b.h5"], ["sid>+9"]).outcomes
    assert {(each.run, each.other) for each in outcomes} == {("w", "v")}
    assert {row["run"] for row in onnxinfo.query(path, run=["w~"])} == {"w~"}
    assert {row["run"] for row in onnxinfo.query(path, run=["w", "*~"])} == {"w", "w~"}
    with h5py.File(path, "r+") as file:
        file.move("w", "u")
    # Nothing else is left of it.
    assert {row["run"] for row in onnxinfo.query(path)} == {"u", "w~"}


def test_unfinished_cells_are_told_of(tmp_path, caplog):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b", finished=[6, 6, 4, 0])
    for view in (onnxinfo.compare, lambda archive: onnxinfo.power(archive, 0.1)):
        caplog.clear()
        view(path)
        told = [text for text in caplog.messages if "unfinished" in text]
        assert told == ["run 'b' is unfinished, and its lacking cells are left out: 8 of sid"]


def test_a_named_layer_that_a_run_lacks_does_not_pass(tmp_path):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b", layers=[0, 1])
    named = "|".join(map(re.escape, NAMES[1:3]))
    verdict = onnxinfo.gate(path, [f"sid:re:{named}>+9"])
    assert statuses(verdict) == {NAMES[1]: "passed", NAMES[2]: "incomplete"}
    assert "run 'b' has no value" in str(verdict)
    assert onnxinfo.gate(path, ["sid>+9"]).passed


@pytest.mark.parametrize("which", ["a", "b"])
@pytest.mark.parametrize("unpaired", [False, True])
@pytest.mark.parametrize("count", [1, 6])
def test_samples_without_a_value_in_one_run_do_not_pass(tmp_path, which, unpaired, count):
    """A layer that died is the change that a gate looks for."""
    path = tmp_path / "a.h5"
    for name in "ab":
        write_run(path, name, dead=[(2, sample) for sample in range(count)] if name == which else ())
    verdict = onnxinfo.gate(path, ["sid>+9"], unpaired=unpaired)
    assert [statuses(verdict)[name] for name in NAMES] == ["passed", "passed", "incomplete", "passed"]
    assert [outcome.lost for outcome in verdict.outcomes] == [0, 0, count, 0]
    assert f"{count} samples have a value in one run only" in str(verdict)
    assert "finish the analysis" not in str(verdict)
    assert onnxinfo.gate(path, ["sid>+9"], unpaired=unpaired, incomplete=True).passed
    # What fails in spite of it fails, and the table has the layer.
    assert not onnxinfo.gate(path, ["sid<+9"], unpaired=unpaired).incomplete
    (row,) = onnxinfo.compare(path, unpaired=unpaired, layers=[NAMES[2]])
    assert (row["n"], row["n_lost"], np.isnan(row["difference"])) == (6 - count, count, count == 6)


def test_samples_without_a_value_in_both_runs_are_no_difference(tmp_path):
    path, dead = tmp_path / "a.h5", [(2, sample) for sample in range(6)] + [(3, 0)]
    for name in "ab":
        write_run(path, name, dead=dead)
    found = statuses(onnxinfo.gate(path, ["sid>+9"]))
    assert [found[name] for name in NAMES] == ["passed", "passed", "undecided", "passed"]
    with pytest.raises(UsageError, match=f"neither run has a value of sid of '{NAMES[2]}'"):
        onnxinfo.gate(path, [f"sid:{NAMES[2]}>+9"])


def test_a_metric_that_the_other_run_lacks_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    for run, metrics in (("a", ["cka", "sensitivity"]), ("b", ["sensitivity"])):
        chosen = {"layers": ["relu_6", "logits"], "metrics": metrics, "limit": 6, "run": run}
        onnxinfo.analyze(NET, f"{DIGITS}:images", path, **chosen)
    for conditions in (["cka>+0.1"], ["cka:relu_6>+0.1", "sensitivity>+99"]):
        with pytest.raises(UsageError, match="no metric 'cka' in run 'b'"):
            onnxinfo.gate(path, conditions)


def side_of(name, generator):
    """Side of a comparison: SID of 4 layers and 6 samples, which is noise."""
    whole = np.ones((4, 6), bool)
    cells = {"value": generator.standard_normal((4, 6)), "stderr": np.zeros((4, 6)), "converged": whole, "done": whole}
    values = RunValues(name, "", tuple(fakes.schema().layers), fakes.SID, cells, RECIPE, {})
    return Side(name, name, {"sid": values}, SimpleNamespace(), layers=values.layers)


def test_chance_fails_rarely(monkeypatch):
    """At 5 % for each of its 8 comparisons rather than for all together, some 40 of 200 calls would fail."""
    generator, failed = np.random.default_rng(0), 0
    monkeypatch.setattr(gating, "check_sides", lambda first, other, unpaired, metrics: True)
    for _ in range(200):
        sides = [side_of(name, generator) for name in "ab"]
        monkeypatch.setattr(gating, "read_sides", lambda selection, sides=sides: sides)
        failed += not onnxinfo.gate("a.h5", ["sid>+0", "sid<-0"]).passed
    assert failed <= 10


def test_the_command_ends_with_3_and_writes_its_verdict(runs, tmp_path):
    command = ["compare", str(runs), "--fail-if", "sid>+0.1", "--verdict", str(tmp_path / "v.json")]
    result = CliRunner().invoke(cli, command, obj={})
    assert isinstance(result.exception, onnxinfo.GateError)
    assert result.exception.exit_code == 3
    assert f"1 of 4 comparisons failed; 'sid>+0.1' at layer '{NAMES[3]}': +0.2" in str(result.exception)
    assert result.stdout.count("failed") == 1
    found = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert not found["passed"]
    assert found["counts"] == {"failed": 1, "passed": 3, "undecided": 0, "incomplete": 0}
    assert found["outcomes"][3]["layer"] == NAMES[3]
    assert "unfinished" not in result.stdout


@pytest.mark.parametrize(("condition", "told"), [("unproven>+0", "4 of 4"), ("sid>+9", "")])
def test_the_command_tells_of_undecided_comparisons(tmp_path, condition, told):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b", unproven=[(layer, 0) for layer in range(3)])
    result = CliRunner().invoke(cli, ["compare", str(path), "--fail-if", condition], obj={})
    assert result.exit_code == 0
    assert ("are undecided" in result.stderr) == bool(told)
    assert told in result.stderr


def test_a_verdict_is_a_file(runs):
    result = CliRunner().invoke(cli, ["compare", str(runs), "--fail-if", "sid>+9", "--verdict", "-"], obj={})
    assert result.exit_code == 2
    assert "'-' is not a file name in --verdict" in result.stderr


def test_other_samples_are_judged_by_what_does_not_depend_on_their_units(tmp_path):
    path = tmp_path / "a.h5"
    both = np.load(DIGITS)
    for run, rows in (("a", slice(0, 4)), ("b", slice(8, 12))):
        chosen = {"layers": ["relu_6", "logits"], "metrics": ["sensitivity", "sid"], "run": run}
        onnxinfo.analyze(NET, both["images"][rows], path, labels=both["labels"][rows], **chosen)
    with onnxinfo.open(path) as archive:
        assert not np.allclose(archive["a"].unit, archive["b"].unit, rtol=1e-3)
    conditions = ["accuracy<-0.5", "sensitivity:relu_6>+9", "sid:relu_6>+3"]
    for some in (conditions[:1], conditions[1:2], conditions):
        verdict = onnxinfo.gate(path, some, unpaired=True)
        assert {outcome.status for outcome in verdict.outcomes} <= {"passed", "undecided"}
    with onnxinfo.open(path) as archive:
        shift = abs(float(np.log(archive["a"].unit / archive["b"].unit).mean()))
    (row,) = onnxinfo.compare(path, unpaired=True, metrics=["sid"], layers=["relu_6"])
    assert row["high"] - row["low"] > 2 * shift
    given = [each for condition in conditions for each in ("--fail-if", condition)]
    result = CliRunner().invoke(cli, ["compare", str(path), "--unpaired", *given], obj={})
    assert result.exit_code == 0, result.output
    assert "intervals are wider by" in result.stderr


def test_accuracy_is_judged_where_metrics_cannot_be_compared(tmp_path):
    """The input's standard deviation is the unit of SID, and accuracy has none."""
    path = tmp_path / "a.h5"
    for run, factor in (("a", 1), ("b", 3)):
        write_run(path, run, correct=[True] * 6, unit=fakes.schema().unit * factor)
    refusal = "different units .*, to which sid refers; analyze both on the same samples"
    with pytest.raises(UsageError, match=refusal):
        onnxinfo.compare(path)
    with pytest.raises(UsageError, match=refusal):
        onnxinfo.gate(path, ["accuracy<-0.9", "sid>+9"])
    result = CliRunner().invoke(cli, ["compare", str(path), "--fail-if", "accuracy<-0.9"], obj={})
    assert result.exit_code == 0, result.output
    assert "passed" in result.stdout


def test_the_table_names_the_quantity_of_each_outcome(tmp_path):
    path = tmp_path / "a.h5"
    for run in "ab":
        chosen = {"layers": ["relu_6", "logits"], "metrics": ["cka", "sensitivity"], "limit": 5, "run": run}
        onnxinfo.analyze(NET, f"{DIGITS}:images", path, **chosen)
    result = CliRunner().invoke(cli, ["compare", str(path), "--fail-if", "unproven>+0.9"], obj={})
    assert result.exit_code == 0, result.output
    assert [result.stdout.count(f"unproven ({metric})") for metric in ("cka", "sensitivity")] == [2, 2]


@pytest.mark.parametrize("output", ["archive", "table"])
def test_a_verdict_replaces_no_other_output(runs, tmp_path, output):
    target = str(runs) if output == "archive" else str(tmp_path / "x.json")
    command = ["compare", str(runs), "--fail-if", "sid>+9", "--format", "json", "-o", str(tmp_path / "x.json")]
    result = CliRunner().invoke(cli, [*command, "--verdict", target, "--force"], obj={})
    assert isinstance(result.exception, onnxinfo.OnnxinfoError)
    assert not (tmp_path / "x.json").exists()


def program_in(folder):
    """The folder with a program ``onnxinfo``, to be put on the path."""
    folder.mkdir()
    program = folder / "onnxinfo"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxinfo "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return folder


def outputs_of(path):
    """The outputs that the script has written last."""
    found = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())
    path.unlink()
    return found


def test_the_action_posts_a_summary(runs, tmp_path):
    """The script runs with ``onnxinfo`` on the path, gets hostile text as variables, and ends with the code."""
    summary, outputs = tmp_path / "summary.md", tmp_path / "outputs"
    variables = {
        "PATH": f"{program_in(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BASELINE": str(runs),
        "CANDIDATE": str(runs),
        "FAIL_IF": "  sid>+0.1\n\n$(touch pwned)>+0.1",
        "COMPARE_OPTIONS": "--run=a\n--run=b",
        "FOLDER": str(tmp_path / "out"),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_OUTPUT": str(outputs),
    }
    script = ["bash", str(ROOT / "tools" / "gate.sh")]
    refused = subprocess.run(script, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no verdict (exit code 2)" in summary.read_text(encoding="utf-8")
    assert outputs_of(outputs) == {"exit-code": "2"}
    assert not (tmp_path / "pwned").exists()
    summary.unlink()
    failed = subprocess.run(
        script, env=variables | {"FAIL_IF": "sid>+0.1"}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 3
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("### onnxinfo: failed")
    assert text.count("| failed |") == 1
    assert outputs_of(outputs) == {"exit-code": "3", "verdict": str(tmp_path / "out" / "verdict.json")}
    # In the same folder, a comparison without a verdict does not pass on the earlier one.
    subprocess.run(script, env=variables, cwd=tmp_path, capture_output=True, check=False)
    assert outputs_of(outputs) == {"exit-code": "2"}
    assert not (tmp_path / "out" / "verdict.json").exists()


def test_the_command_and_the_action_are_not_green_for_an_unfinished_run(tmp_path):
    path, verdict, summary = write_run(tmp_path / "a.h5", "a"), tmp_path / "v.json", tmp_path / "summary.md"
    write_run(path, "b", finished=[6, 6, 4, 0])
    command = ["compare", str(path), "--fail-if", "sid>+9", "--verdict", str(verdict)]
    result = CliRunner().invoke(cli, command, obj={})
    assert isinstance(result.exception, onnxinfo.IncompleteError)
    assert result.exception.exit_code == 5
    assert not json.loads(verdict.read_text(encoding="utf-8"))["passed"]
    assert CliRunner().invoke(cli, [*command, "--incomplete"], obj={}).exit_code == 0
    variables = {
        "PATH": f"{program_in(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BASELINE": str(path),
        "CANDIDATE": str(path),
        "FAIL_IF": "sid>+9",
        "COMPARE_OPTIONS": "--run=a\n--run=b",
        "FOLDER": str(tmp_path / "out"),
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    script = ["bash", str(ROOT / "tools" / "gate.sh")]
    found = subprocess.run(script, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 5
    assert summary.read_text(encoding="utf-8").startswith("### onnxinfo: incomplete")
    assert "finish the analysis, or judge what both runs have with --incomplete" in found.stderr


def test_the_action_does_not_judge_an_older_archive_if_the_analysis_fails(tmp_path):
    folder, broken, summary = tmp_path / "out", tmp_path / "broken.onnx", tmp_path / "summary.md"
    folder.mkdir()
    # What an earlier step left in the folder.
    write_run(folder / "candidate.h5", "candidate")
    (folder / "verdict.json").write_text('{"passed": true}', encoding="utf-8")
    broken.write_bytes(b"not a model")
    variables = {
        "PATH": f"{program_in(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BASELINE": str(write_run(tmp_path / "baseline.h5", "baseline")),
        "CANDIDATE": str(broken),
        "INPUTS": "images.npz",
        "FAIL_IF": "sid>+0.1",
        "FOLDER": str(folder),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_OUTPUT": str(tmp_path / "outputs"),
    }
    script = ["bash", str(ROOT / "tools" / "gate.sh")]
    found = subprocess.run(script, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode not in (0, 3)
    assert "onnxinfo: error" in found.stderr
    title, *reason = summary.read_text(encoding="utf-8").split("\n", 1)
    assert title == "### onnxinfo: no verdict (exit code 1)"
    assert "no such file or folder: images.npz" in reason[0]
    assert outputs_of(tmp_path / "outputs") == {"exit-code": "1"}


def test_the_action_judges_several_candidates_in_one_folder(tmp_path):
    """What an earlier step left of another model is replaced, unless it is the baseline."""
    with np.load(DIGITS) as digits:
        np.savez(tmp_path / "few.npz", images=digits["images"][:5])
    (tmp_path / "pruned.onnx").write_bytes(onnxinfo.prune(NET, 0.9).proto.SerializeToString())
    variables = {
        "PATH": f"{program_in(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BASELINE": str(NET),
        "INPUTS": "few.npz:images",
        "OPTIONS": "--metric=cka\n--layers=relu_6\n--layers=logits",
        "FAIL_IF": "cka<-0.9",
        "FOLDER": "out",
    }
    script = ["bash", str(ROOT / "tools" / "gate.sh")]

    def judged(**others):
        given = variables | others
        return subprocess.run(script, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)

    for candidate in (str(NET), "pruned.onnx"):
        found = judged(CANDIDATE=candidate)
        assert found.returncode == 0, found.stderr
        (run,) = onnxinfo.open(tmp_path / "out" / "candidate.h5").values()
        assert run.recipe["model_sha256"] == onnxinfo.load(tmp_path / candidate).sha256
    found = judged(BASELINE="out/candidate.h5", CANDIDATE=str(NET))
    assert found.returncode == 2
    assert "out/candidate.h5 would be replaced by the analysis of" in found.stderr


def test_the_action_takes_names_in_capitals_and_folders_that_begin_with_a_dash(tmp_path):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b").rename(tmp_path / "A.H5")
    variables = {
        "PATH": f"{program_in(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BASELINE": "A.H5",
        "CANDIDATE": "A.H5",
        "FAIL_IF": "sid>+9",
        "COMPARE_OPTIONS": "--run=a\n--run=b",
        "FOLDER": "-out",
    }
    script = ["bash", str(ROOT / "tools" / "gate.sh")]
    found = subprocess.run(script, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "-out" / "verdict.json").exists()


def test_the_action_reports_a_request_without_conditions(tmp_path):
    variables = {"PATH": os.environ["PATH"], "FAIL_IF": "", "FOLDER": "out"}
    written = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "GITHUB_OUTPUT": str(tmp_path / "outputs")}
    script = ["bash", str(ROOT / "tools" / "gate.sh")]
    found = subprocess.run(script, env=variables | written, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "name at least one condition in fail-if" in found.stderr
    assert found.returncode != 0
    assert outputs_of(tmp_path / "outputs") == {"exit-code": str(found.returncode)}
    assert f"no verdict (exit code {found.returncode})" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_figure_of_differences_has_the_layers_with_values_in_both_runs(tmp_path):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b", dead=[(2, sample) for sample in range(6)])
    figure = onnxinfo.plot(path, "compare")
    names = {text.get_text() for axes in figure.axes for text in axes.get_yticklabels()}
    assert names == {"layer0", "layer1", "layer3"}
    with pytest.raises(UsageError, match="no layer has a value in both runs"):
        onnxinfo.plot(path, "compare", layers=[NAMES[2]])


def test_power_tells_of_layers_with_too_few_values(tmp_path, caplog):
    path = write_run(tmp_path / "a.h5", "a")
    write_run(path, "b", dead=[(1, sample) for sample in range(4)])
    assert [row["layer"] for row in onnxinfo.power(path, 0.1)] == [NAMES[0], *NAMES[2:]]
    assert "left out, for lack of 3 samples with values: 'sid of " in caplog.text


def test_a_verdict_is_drawn_with_intervals_and_thresholds(runs, tmp_path):
    verdict = onnxinfo.gate(runs, ["sid>+0.1", f"sid:{NAMES[3]}<-0.5", "accuracy<-0.01"])
    figure = verdict.plot(tmp_path / "verdict.png")
    assert (tmp_path / "verdict.png").read_bytes()[:4] == b"\x89PNG"
    nats, accuracy = figure.axes
    assert nats.get_xlabel() == "difference in SID, nats per input unit"
    assert accuracy.get_xlabel() == "difference in accuracy"
    assert [each.get_text() for each in nats.get_yticklabels()] == short_names(NAMES, 32)
    markers = {line.get_marker(): line for line in nats.lines}
    assert markers["X"].get_xdata() == pytest.approx(verdict.outcomes[3].difference)  # failed
    assert {float(line.get_xdata()[0]) for line in nats.lines if line.get_marker() in "<>"} == {0.1, -0.5}
    ends = [path.vertices[:, 0] for each in nats.collections for path in each.get_paths()]
    assert np.ravel(ends) == pytest.approx([end for each in verdict.outcomes[:5] for end in (each.low, each.high)])


def test_unknown_intervals_are_not_drawn(tmp_path):
    path = write_run(tmp_path / "a.h5", "a", dead=[(0, sample) for sample in range(1, 6)])
    write_run(path, "b", (0.1, 0, 0, 0), dead=[(0, sample) for sample in range(1, 6)], seed=2)
    verdict = onnxinfo.gate(path, [f"sid:{NAMES[0]}>+9"])
    assert np.isnan(verdict.outcomes[0].low)
    verdict.plot().savefig(tmp_path / "a.png")


def test_the_command_draws_the_verdict_and_still_ends_with_3(runs, tmp_path):
    drawn = tmp_path / "v.svg"
    command = ["compare", str(runs), "--fail-if", "sid>+0.1", "--plot", str(drawn)]
    assert isinstance(CliRunner().invoke(cli, command, obj={}).exception, onnxinfo.GateError)
    assert "1 of 4 comparisons failed" in drawn.read_text(encoding="utf-8")
    refused = CliRunner().invoke(cli, ["compare", str(runs), "--plot", str(tmp_path / "w.png")], obj={})
    assert "plot=... shows the outcomes of conditions" in str(refused.exception)
    # Before the archives are read.
    missing = ["compare", "no.h5", "--fail-if", "sid>+0.1", "--plot", str(tmp_path / "v.txt")]
    assert "cannot draw" in str(CliRunner().invoke(cli, missing, obj={}).exception)
