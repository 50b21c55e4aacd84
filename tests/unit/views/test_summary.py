"""The sentences of a summary follow from the numbers of constructed archives."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from archive_fakes import PROVEN_SID, make, schema, table_schema
from click.testing import CliRunner

import onnxinfo
from onnxinfo.archive.format import LayerRow, Metric, mark_code
from onnxinfo.archive.sanity import SanityCard
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli
from onnxinfo.views.floor import linear_floor
from onnxinfo.views.run_values import RunValues
from onnxinfo.views.sentences.facts import _curve
from onnxinfo.views.sentences.places import regions

RU = Metric("ru", "reconstruction uncertainty", fields=PROVEN_SID.fields)
CONCENTRATION = Metric("concentration", "concentration", fields=(), has_map=False)
FLOOR = linear_floor(1.5e-4)
NAMES = [f"/layer{i}/é/Relu_output_0" for i in range(4)]
# Differences of samples, the same in all layers, so that paired differences are exact.
SPREAD = np.linspace(-0.2, 0.2, 6)


def write(path, values, *, metrics=None, maps=None, marks=None, stop=None, capped=0, described=None, **changes):
    """Write a run of which each layer has these values, (layer,) or (layer, sample), by metric."""
    values = values if isinstance(values, dict) else {"sid": values}
    known = {"sid": PROVEN_SID, "ru": RU, "concentration": CONCENTRATION}
    described = described or schema(metrics=tuple(known[name] for name in values), **changes)
    samples = len(described.sample_names)
    with RunWriter.open(path, "first", described) as writer:
        for metric in described.metrics:
            whole = np.asarray(values[metric.name], dtype=float)
            whole = whole if whole.ndim == 2 else whole[:, None] + SPREAD[:samples]
            for layer in range(len(described.layers)):
                writer.set_normalizer(metric.name, layer, 1.0)
                if stop is not None and layer >= stop:
                    continue
                mark = (marks or {}).get(layer, ["converged"] * samples)
                cells = {"value": whole[layer], "stderr": np.full(samples, 0.001)}
                cells["converged"] = np.array([name == "converged" for name in mark])
                for field in metric.fields:
                    cells[field.name] = np.zeros(samples, dtype=field.dtype)
                if "mark" in cells:
                    cells["mark"] = np.array([mark_code(name) for name in mark], dtype=np.uint8)
                    cells["gap"], cells["capped"] = np.full(samples, 0.0123), np.full(samples, float(capped))
                    cells["resolution_alpha"] = np.full(samples, 0.0075)
                shown = np.zeros((samples, *described.sample_shape), np.float32) if maps is None else maps[layer]
                writer.write(metric.name, layer, range(samples), values=cells, map=shown if metric.has_map else None)
        if stop is not None:
            raise KeyboardInterrupt
    return path


def sentences(path):
    with onnxinfo.open(path) as archive:
        found = archive["first"].summary()
    assert all(re.search(r"\d", text) for text in found.sentences), "no sentence without its number"
    assert found.sentences[0].startswith("Run first: ")
    return found.sentences[1:]


def only(found, start):
    (sentence,) = [text for text in found if start in text]
    return sentence


def none(found, start):
    assert not [text for text in found if start in text]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def test_a_rising_curve(path):
    found = sentences(write(path, [FLOOR, -2.97, -2.5, -2.4]))
    assert only(found, "Most is discarded") == (
        f"Most is discarded in {NAMES[3]}: SID -2.400 ± 0.061 nats per input unit, "
        f"0.58350 ± 0.00058 more than in {NAMES[0]}, where it is least."
    )
    assert only(found, "Little is discarded") == (
        f"Little is discarded up to {NAMES[1]}: SID stays within 0.016 nats of that of {NAMES[0]}, -2.983 ± 0.061; "
        f"{NAMES[2]} is the first to discard clearly more, by 0.48350 ± 0.00058 nats."
    )
    assert only(found, "largest clear step") == (
        f"The largest clear step is from {NAMES[1]} to {NAMES[2]}: 0.47000 ± 0.00058 nats."
    )
    assert f"{NAMES[0]} is not certainly above the floor of -2.9835 nats" in only(found, "floor")


def test_a_curve_that_rises_at_once(path):
    found = sentences(write(path, [-2.9, -2.5, -2.45, -2.4]))
    assert only(found, "Discarding begins").startswith(f"Discarding begins at once: after {NAMES[0]} (-2.900 ± 0.061")
    none(found, "Little is discarded")


def test_differences_within_their_errors_are_not_claimed(path):
    noise = np.random.default_rng(0).normal(0, 1, (4, 6))
    found = sentences(write(path, -2.5 + 0.2 * noise + [[0.01 * layer] for layer in range(4)]))
    claimed = "With 6 samples, it is not certain that SID differs between the 4 layers"
    assert only(found, "With 6").startswith(claimed)
    for start in ("Most is discarded", "Little", "step", "begins"):
        none(found, start)


def test_layers_that_cannot_be_told_apart_are_named_together(path):
    noise = np.random.default_rng(1).normal(0, 0.02, (4, 6))
    found = sentences(write(path, np.array([-3, -2.9, -2.4, -2.4])[:, None] + noise))
    said = only(found, "Most is discarded")
    assert NAMES[2] in said
    assert NAMES[3] in said
    assert "which do not differ beyond their errors" in said


def test_many_samples_of_noise_rarely_claim_a_difference(path):
    """Of 100 runs without any difference between layers, at most a few claim one: the level is 5 %."""
    generator = np.random.default_rng(0)
    rows = tuple(LayerRow(f"l{i}", i, "Relu", "", i, 0, "1") for i in range(10))
    claims = 0
    for _ in range(100):
        values = generator.normal(-2.5, 0.1, (10, 12))
        cells = {"value": values, "stderr": values * np.nan, "done": values < 0, "converged": values < 0}
        curve = _curve(RunValues("a", "", rows, PROVEN_SID, cells, {}, {}))
        claims += curve.difference(int(curve.value.argmax()), int(curve.value.argmin())).is_certain
    assert claims <= 5


def test_one_layer_with_a_huge_error_does_not_hide_what_is_certain(path):
    values = np.array([-3, -2.9, -2.5, -1])[:, None] + SPREAD
    values[3] += np.linspace(-9, 9, 6)
    found = sentences(write(path, values))
    assert only(found, "Most is discarded").startswith(
        f"Most is discarded in {NAMES[3]} (-1.0 ± 2.8 nats) and {NAMES[2]} "
    )
    assert only(found, "Most is discarded").endswith(
        f"SID of {NAMES[2]} is 0.50000 ± 0.00058 more than in {NAMES[0]}, where it is least."
    )
    assert only(found, "Little is discarded").startswith(
        f"Little is discarded up to {NAMES[1]}: SID stays within 0.11 "
    )
    assert f"from {NAMES[1]} to {NAMES[2]}: 0.40000" in only(found, "largest clear step")
    none(found, "not certain that SID differs")


def test_layers_between_which_and_the_first_little_is_known_are_not_said_to_discard_little(path):
    values = np.array([-3, -2.95, -2.5, -2.4])[:, None] + SPREAD
    values[1] += np.linspace(-1, 1, 6) ** 3
    found = sentences(write(path, values))
    none(found, "Little is discarded")
    assert only(found, "first to discard") == (
        f"{NAMES[2]} is the first to discard clearly more than {NAMES[0]} (-3.000 ± 0.061 nats), "
        "by 0.50000 ± 0.00058 nats."
    )


def test_layers_that_are_mostly_unproven_are_left_out_and_named(path, tmp_path):
    """Everything else is said as if these layers had not been analyzed."""
    values = np.array([-3, -2.9, -2.5, 1])[:, None] + SPREAD
    maps = np.random.default_rng(0).normal(-3, 0.05, (4, 6, 3, 24, 24)).astype(np.float32)
    maps[2:, ..., regions(24, 24)[0]] += 0.5
    marks = {3: ["saturated_output"] * 3 + ["converged"] * 3}
    found = sentences(write(path, values, maps=maps, marks=marks, capped=0.25))
    assert only(found, "leave out") == (
        "Sentences about layers leave out those in which at least half of the cells of sid are unproven or without a "
        f"value: {NAMES[3]} (3 of 6)."
    )
    assert [text for text in found if NAMES[3] in text] == [only(found, "leave out"), only(found, "analyze the scores")]
    described = schema(metrics=(PROVEN_SID,), layers=schema().layers[:3])
    without = sentences(write(tmp_path / "b.h5", values[:3], maps=maps, capped=0.25, described=described))
    assert [text for text in found if NAMES[3] not in text] == [text for text in without if "All 18 cells" not in text]
    for start in ("Most is", "first to discard", "floor", "ignores", "edges", "discards least of"):
        assert only(without, start)


def test_layers_that_are_less_than_half_unproven_stay(path):
    found = sentences(write(path, [-3, -2.9, -2.8, -2.7], marks={3: ["gap"] * 2 + ["converged"] * 4}))
    none(found, "leave out")
    assert only(found, "Most is discarded") == (
        f"Most is discarded in {NAMES[3]}: SID -2.700 ± 0.061* nats per input unit, "
        f"0.30000 ± 0.00058* more than in {NAMES[0]}, where it is least."
    )
    assert only(found, "numbers with * include unproven values")


def test_several_layers_that_are_left_out(path):
    layers = [LayerRow(f"l{i}", i, "Relu", f"n{i}", i, 0, "1") for i in range(7)]
    described = schema(layers=layers, metrics=(PROVEN_SID,))
    marks = dict.fromkeys(range(2, 7), ["ratio"] * 6)
    found = sentences(write(path, -3 + 0.1 * np.arange(7), described=described, marks=marks))
    assert only(found, "leave out").endswith("without a value: l2 (6 of 6), l3 (6 of 6), l4 (6 of 6), 2 more.")
    assert only(found, "Most is discarded in l1")


def test_all_layers_are_left_out(path):
    found = sentences(write(path, [-3, -2.9, -2.8, -2.7], marks=dict.fromkeys(range(4), ["ratio"] * 6)))
    assert found[0].startswith("Sentences about layers are left out, as there are only those in which at least half")
    assert len(found) == 2


def test_extremes_are_proven(path):
    marks = {3: ["saturated_output", *["converged"] * 4, "gap"]}
    found = only(sentences(write(path, [-3, -2.9, -2.8, -2.7], marks=marks)), "discards least of")
    assert found.startswith(f"Of the 4 of 6 samples whose values are proven, {NAMES[3]} discards least of sample 1.png")
    assert "most of sample 4.png" in found


def test_numbers_of_parts_with_unproven_samples_have_a_star(path, tmp_path):
    marks = {3: ["gap", *["converged"] * 5]}
    maps = np.random.default_rng(0).normal(-3, 0.02, (4, 6, 12)).astype(np.float32)
    maps[3] += np.arange(12, dtype=np.float32)
    described = table_schema(metrics=(PROVEN_SID,))
    found = sentences(write(path, [-3, -2.9, -2.8, -2.7], maps=maps, marks=marks, described=described, capped=0.25))
    assert only(found, "columns").count("* nats") == 2
    assert "ignores 25 % of" in only(found, "ignores")  # the first of several equal layers is proven
    maps = np.full((4, 6, 3, 24, 24), -3, np.float32) + np.random.default_rng(0).normal(0, 0.05, (4, 6, 3, 24, 24))
    maps[3, ..., regions(24, 24)[0]] += 0.5
    values = {"sid": [-3, -2.9, -2.8, -2.7], "concentration": [0, 0, 0, 0.5]}
    found = sentences(write(tmp_path / "b.h5", values, maps=maps.astype(np.float32), marks=marks))
    assert re.search(r"outer eighth is 0\.\d+ ± 0\.\d+\* nats above", only(found, "outer eighth"))
    assert "concentration 0.500 ± 0.061* nats" in only(found, "keeps the object")


def test_edges_of_images(path):
    edge, center = regions(24, 24)
    assert edge.sum() == 24 * 24 - 18 * 18
    assert center.sum() == 12 * 12
    maps = np.random.default_rng(0).normal(-3, 0.05, (4, 6, 3, 24, 24)).astype(np.float32)
    maps[2:, ..., edge] += 0.5
    found = only(sentences(write(path, [-3, -2.9, -2.8, -2.7], maps=maps)), "edges")
    assert found.startswith(
        f"The edges of the image are discarded first: in {NAMES[3]}, SID of the outer eighth is 0.49"
    )
    assert found.endswith(f"as in all examined layers from {NAMES[2]} on.")


def test_edges_that_are_kept_or_do_not_matter(path, tmp_path):
    maps = np.random.default_rng(0).normal(-3, 0.05, (4, 6, 3, 24, 24)).astype(np.float32)
    none(sentences(write(path, [-3, -2.9, -2.8, -2.7], maps=maps)), "edges")
    maps[3, ..., regions(24, 24)[0]] -= 0.5
    found = only(sentences(write(tmp_path / "b.h5", [-3, -2.9, -2.8, -2.7], maps=maps)), "edges")
    assert f"are kept: in {NAMES[3]}, SID of the outer eighth is 0.5" in found
    assert found.endswith("nats below that of the center.")


def test_columns_of_a_table(path):
    maps = np.random.default_rng(0).normal(-3, 0.02, (4, 6, 12)).astype(np.float32)
    maps[3, :, 5] -= 1
    maps[3, :, 2] += 1
    described = table_schema(metrics=(PROVEN_SID,), unit_names=[f"wine {i}" for i in range(12)])
    found = only(sentences(write(path, [-3, -2.9, -2.8, -2.7], maps=maps, described=described)), "columns")
    assert f"Of 12 columns, {NAMES[3]} keeps wine 5 (-4.0" in found
    assert "in most detail and wine 2 (-2.0" in found


def test_columns_that_do_not_differ(path):
    maps = np.random.default_rng(0).normal(-3, 0.2, (4, 6, 12)).astype(np.float32)
    described = table_schema(metrics=(PROVEN_SID,))
    none(sentences(write(path, [-3, -2.9, -2.8, -2.7], maps=maps, described=described)), "columns")


@pytest.mark.parametrize(
    ("last", "said"),
    [(0.5, "keeps the object rather than the background: concentration 0.500 ± 0.061 nats."),
     (-0.5, "keeps the background rather than the object: concentration -0.500 ± 0.061 nats."),
     (0.05, "discards object and background alike: concentration 0.050 ± 0.061 nats, zero within its error.")],
)  # fmt: skip
def test_concentration(path, last, said):
    values = {"sid": [-3, -2.9, -2.8, -2.7], "concentration": [0, 0, 0, last]}
    assert only(sentences(write(path, values)), "concentration ") == f"{NAMES[3]} {said}"


def test_unproven_cells_come_with_the_remedy(path):
    marks = {2: ["gap"] * 2 + ["converged"] * 4, 3: ["gap"] * 3 + ["ratio"] + ["converged"] * 2}
    found = sentences(write(path, [-3, -2.9, -2.8, -2.7], marks=marks))
    assert only(found, "most of them") == (
        f"6 of 24 cells of sid are unproven or without a value, most of them in {NAMES[3]} (4 of 6) "
        "(5 gap, 1 ratio): run the same analysis again with onnxinfo.analyze(retry_unproven=True); "
        "numbers with * include unproven values."
    )
    none(found, "cells of sid are proven")


@pytest.mark.parametrize(
    ("mark", "remedy"),
    [("resolution", "larger alpha, sound from 0.0075 on"), ("saturated_output", "analyze the scores"),
     ("dead", "normalize_by='feature'"), ("ratio", "retry_unproven=True"), ("constant", "does not depend")],
)  # fmt: skip
def test_the_remedy_follows_the_mark(path, mark, remedy):
    found = only(sentences(write(path, [-3, -2.9, -2.8, -2.7], marks={1: [mark] * 6})), "6 of 6 cells")
    assert found.startswith(f"6 of 6 cells of sid in {NAMES[1]} are unproven or without a value (6 {mark}): ")
    assert remedy in found


def test_proven_cells(path):
    found = only(sentences(write(path, [-3, -2.9, -2.8, -2.7])), "proven")
    assert found == "All 24 cells of sid are proven; means of layers are at most 0.013 nats too low."


def test_a_single_cell(tmp_path):
    one = {"sample_names": ["only.png"], "labels": None, "foreground": None, "thumbnails": None}
    described = schema(metrics=(PROVEN_SID,), layers=schema().layers[:1], **one)
    file = make(tmp_path / "a.h5", described=described)
    found = only(sentences(file), "proven")
    assert found.startswith("The only cell of sid is proven; ")


def test_an_unfinished_run(path):
    with pytest.raises(KeyboardInterrupt):
        write(path, [-3, -2.9, -2.8, -2.7], stop=2)
    found = sentences(path)
    assert found[0] == (
        "12 of 24 cells are finished, the run is interrupted; the same analysis, started again, computes the rest."
    )
    assert NAMES[3] not in " ".join(found)


def test_ignored_units(path):
    found = sentences(write(path, [-3, -2.9, -2.8, -2.7], capped=0.25))
    assert "ignores 25 % of the input units" in only(found, "ignores")


def test_no_floor_where_there_is_none(path):
    recipe = dict(schema().recipe) | {"normalizer": "feature"}
    none(sentences(write(path, [-3, -2.9, -2.8, -2.7], recipe=recipe)), "floor")


def test_accuracy_and_misclassified_samples(path):
    predicted = np.array([0, 1, 2, 1, 2, 0])  # labels are 0 1 2 0 1 2
    card = SanityCard("x", 6, {}, classes=3, labeled=6, accuracy=0.5, warnings=("values up to 255",))
    values = np.tile([[-3.0], [-2.9], [-2.8], [-2.7]], 6) + 0.01 * SPREAD
    values[3, 3:] += 0.4
    changes = {"predicted": predicted, "probability": np.full(6, 0.9)}
    provenance = {"sanity": card.to_dict()}
    found = sentences(write(path, values, **changes, provenance=provenance))
    assert "The model classifies 3 of 6 labeled samples correctly (50.0%)." in found
    assert "1 warning about the model's input: values up to 255." in found
    said = only(found, "misclassified")
    assert re.match(rf"{NAMES[3]} discards more of misclassified samples, by 0.40\d* ± 0.\d+ nats: 3 against 3 ", said)


def test_extremes(path):
    found = only(sentences(write(path, [-3, -2.9, -2.8, -2.7])), "discards least of")
    assert "sample 0.png (-2.9000 ± 0.0010 nats) and most of sample 5.png (-2.5000 ± 0.0010 nats)" in found


@pytest.mark.parametrize("described", [schema, table_schema])
def test_a_run_without_maps(path, tmp_path, described):
    """Everything is said that needs no maps, as of the same run with maps."""
    values = [FLOOR, -2.97, -2.5, -2.4]
    found = sentences(write(path, values, described=described(metrics=(replace(PROVEN_SID, has_map=False),))))
    assert found == sentences(write(tmp_path / "b.h5", values, described=described(metrics=(PROVEN_SID,))))
    assert only(found, "Most is discarded")


def test_several_metrics(path):
    layers = [LayerRow(f"l{i}", i, "Relu", f"n{i}", i, 0, "1") for i in range(6)]
    values = {"sid": -3 + 0.1 * np.arange(6), "ru": -4 + 0.2 * np.arange(6)}
    described = schema(layers=layers, metrics=(PROVEN_SID, RU))
    found = sentences(write(path, values, described=described))
    assert only(found, "reconstructed least from").startswith("The input can be reconstructed least from l5: RU -3.0")
    assert only(found, "rank correlation").startswith("SID and RU order the 6 layers alike: rank correlation +1.00")


def test_one_sample_and_one_layer(path):
    described = table_schema(metrics=(PROVEN_SID,))
    described = replace(described, layers=described.layers[:1], sample_names=["a"], labels=["a"])
    found = sentences(write(path, [[-2.5]], described=described))
    assert f"SID of {NAMES[0]} is -2.5000 ± 0.0010 nats per input unit." in found
    assert found[-1].startswith("The run has 1 sample")


def test_no_cell_is_finished(path):
    with pytest.raises(KeyboardInterrupt):
        write(path, [-3, -2.9, -2.8, -2.7], stop=0)
    (said,) = sentences(path)
    assert said.startswith("0 of 24 cells are finished")


def test_hostile_names_are_escaped(path):
    described = schema(metrics=(PROVEN_SID,))
    rows = [replace(row, name=f"<b>\x1b[31m{row.index}") for row in described.layers]
    write(path, [-3, -2.9, -2.8, -2.7], described=replace(described, layers=rows))
    found = onnxinfo.summary(path)
    assert "\x1b" not in str(found)
    assert "<b>" in str(found)
    html = found._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_the_public_function_and_the_command(path):
    write(path, [-3, -2.9, -2.8, -2.7], marks={3: ["gap"] * 6})
    found = onnxinfo.summary(path, "first")
    assert found.sentences == [*onnxinfo.summary(path)]
    assert repr(found) == f"<summary of run 'first': {len(found.sentences)} sentences>"
    result = CliRunner().invoke(cli, ["summary", str(path)])
    assert result.exit_code == 0
    assert "'onnxinfo analyze --retry-unproven'" in result.stdout
    assert result.stdout.splitlines()[:3] == ["Summary", "-------", "Run first: sid of 4 layers on 6 samples."]
    written = CliRunner().invoke(cli, ["summary", str(path), "--format", "json"])
    assert json.loads(written.stdout)["sentences"][0] == found.sentences[0]
    output = path.with_suffix(".txt")
    assert CliRunner().invoke(cli, ["summary", str(path), "-o", str(output)]).exit_code == 0
    assert output.read_text() == result.stdout


def test_layers_are_chosen(path):
    write(path, [-3, -2.9, -2.8, -2.7], marks={3: ["saturated_output"] * 6})
    found = onnxinfo.summary(path, exclude=NAMES[3]).sentences
    assert found[0] == "Run first: sid of 3 layers on 6 samples."
    assert NAMES[3] not in " ".join(found)
    result = CliRunner().invoke(cli, ["summary", str(path), "--exclude", NAMES[3]])
    assert result.stdout.splitlines()[2:] == found
    chosen = CliRunner().invoke(cli, ["summary", str(path), "--layers", NAMES[0], "--layers", NAMES[1]])
    assert "sid of 2 layers" in chosen.stdout
    assert onnxinfo.summary(path, layers=[0]).sentences[0] == "Run first: sid of 1 layer on 6 samples."
    with pytest.raises(onnxinfo.UsageError, match="nothing"):
        onnxinfo.summary(path, exclude="nothing")


def test_several_runs_need_a_name(path):
    write(path, [-3, -2.9, -2.8, -2.7])
    described = schema(metrics=(PROVEN_SID,))
    with RunWriter.open(path, "second", described):
        pass
    with pytest.raises(onnxinfo.UsageError, match="a summary is of one run, and there are several; name one with run="):
        onnxinfo.summary(path)
    with onnxinfo.open(path) as archive:
        assert onnxinfo.summary(archive["first"]).run == "first"
    with pytest.raises(KeyError, match="no run 'third'"):
        onnxinfo.summary(path, "third")
