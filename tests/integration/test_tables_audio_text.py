"""Models of tables, recordings and texts from their files to results by name, by the commands of the docs."""

import csv
import re
import shlex

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from places import DOCS

import onnxinfo
from onnxinfo.archive.copying import schema_of
from onnxinfo.cli import cli

RNG = np.random.default_rng(0)
NAMES = ("age", "hours", "gain")


def weight(name, *shape):
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def integers(name, *values):
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def save(path, nodes, inputs, outputs, weights):
    infos = [helper.make_tensor_value_info(name, kind, dims) for name, kind, dims in inputs]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "g", infos, ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


HEAD = [node("MatMul", "all W", "a"), node("Tanh", "a", "hidden"), node("MatMul", "hidden V", "logits")]


def ignoring_gain():
    values = RNG.normal(size=(3, 5)).astype(np.float32)
    values[2] = 0
    return numpy_helper.from_array(values, "W")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("adult.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([*NAMES, "Hours per week", "job", "income"])
        for i in range(6):
            lines.writerow([*RNG.normal(size=4).round(3), ("clerk", "=SUM(A1)")[i % 2], ("low", "high")[i // 3]])
    start = [node("Identity", "x", "all")]
    save(
        "income.onnx", start + HEAD, [("x", 1, ["n", 3])], [("logits", ["n", 2])], [ignoring_gain(), weight("V", 5, 2)]
    )
    start = [
        node("OneHotEncoder", "job", "hot", domain="ai.onnx.ml", cats_strings=["clerk", "=SUM(A1)"], zeros=1),
        node("Reshape", "hot s", "flat"),
        node("Concat", "hours_per_week flat", "all", axis=1),
    ]
    inputs = [("hours_per_week", 1, ["n", 1]), ("job", TensorProto.STRING, ["n", 1])]
    weights = [weight("W", 3, 5), weight("V", 5, 2), integers("s", -1, 2)]
    save("columns.onnx", start + HEAD, inputs, [("logits", ["n", 2])], weights)
    return tmp_path


def run(line):
    result = CliRunner().invoke(cli, shlex.split(line))
    assert result.exit_code == 0, (line, result.output, result.exception)
    return result.output


def commands(page):
    return re.findall(r"^    onnxinfo (.+)$", (DOCS / page).read_text(), re.MULTILINE)


def test_the_commands_of_the_page_on_tables(folder):
    lines = commands("tables.md")
    assert len(lines) == 5
    for line in lines:
        run(line)
    assert (folder / "columns.png").stat().st_size > 1000
    assert '"names": ["age"'.replace(" ", "") in (folder / "income.html").read_text().replace(" ", "")
    with onnxinfo.open("income.h5") as archive:
        found = archive["income"]
        assert found.unit_names == [*NAMES]
        assert sorted(set(found.labels)) == ["high", "low"]
        assert schema_of(found).unit_names == [*NAMES]
        assert archive["income"].to_xarray().unit_name.values.tolist() == [*NAMES]
    assert not onnxinfo.validate("income.h5").violations


def test_units_are_queried_by_name_and_an_ignored_column_lies_at_the_largest_value(folder):
    run("analyze income.onnx --inputs adult.csv:age,hours,gain -o t.h5 --layers logits")
    rows = onnxinfo.query("t.h5", per="unit", sort="value")
    assert [row["unit_name"] for row in rows][-1] == "gain"
    assert rows[-1]["value"] == pytest.approx(np.log(2 * np.pi * np.e) / 2, abs=1e-3)
    assert rows[0]["value"] < 0
    with onnxinfo.open("t.h5") as archive:
        maps = archive["income"].maps("sid", 0)
    assert {row["unit_name"]: row["value"] for row in rows} == pytest.approx(
        dict(zip(NAMES, maps.mean(0).tolist(), strict=True)), abs=1e-6
    )
    assert all(row["n"] == 6 and row["converged"] for row in rows)
    mean = onnxinfo.query("t.h5")[0]["value"]
    assert np.mean([row["value"] for row in rows]) == pytest.approx(mean, abs=1e-4)
    assert "'gain" not in run("query t.h5 --per unit --format csv")


def test_names_that_spreadsheets_take_for_formulas_are_escaped(folder):
    (folder / "f.csv").write_text("=1+1,b,c\n1,2,3\n4,5,7\n")
    run("analyze income.onnx --inputs f.csv -o f.h5 --layers logits")
    assert "'=1+1" in run("query f.h5 --per unit --format csv")


def test_units_without_names_are_numbered_and_images_have_no_table_of_units(folder):
    onnxinfo.analyze("income.onnx", RNG.normal(size=(3, 3)).astype(np.float32), "a.h5", layers=["logits"])
    assert [row["unit_name"] for row in onnxinfo.query("a.h5", per="unit")] == ["0", "1", "2"]
    onnxinfo.plot("a.h5", "columns", "a.png")
    save(
        "image.onnx",
        [node("Conv", "x K", "logits")],
        [("x", 1, ["n", 1, 4, 4])],
        [("logits", ["n", 1, 2, 2])],
        [weight("K", 1, 1, 3, 3)],
    )
    onnxinfo.analyze("image.onnx", RNG.normal(size=(2, 1, 4, 4)).astype(np.float32), "i.h5")
    with pytest.raises(onnxinfo.UsageError, match="have the axes channel, y, x, a table has one: draw maps"):
        onnxinfo.query("i.h5", per="unit")


@pytest.mark.usefixtures("quick_workers")
def test_text_is_held_and_workers_agree(folder):
    values = []
    for workers in (1, 2):
        onnxinfo.analyze("columns.onnx", "adult.csv", "c.h5", workers=workers, overwrite=True)
        values.append([row["value"] for row in onnxinfo.query("c.h5", per="sample")])
    assert values[0] == values[1]
    assert {row["unit_name"] for row in onnxinfo.query("c.h5", per="unit")} == {"Hours per week"}
    assert onnxinfo.check_model("columns.onnx", "adult.csv").error is None


def test_columns_of_numbers_get_noise_together_and_text_none(folder):
    start = [
        node("OneHotEncoder", "job", "hot", domain="ai.onnx.ml", cats_strings=["clerk", "=SUM(A1)"], zeros=1),
        node("Reshape", "hot s", "flat"),
        node("Concat", "hours_per_week age flat", "all", axis=1),
    ]
    inputs = [("hours_per_week", 1, ["n", 1]), ("age", 1, ["n", 1]), ("job", TensorProto.STRING, ["n", 1])]
    weights = [weight("W", 4, 5), weight("V", 5, 2), integers("s", -1, 2)]
    save("two.onnx", start + HEAD, inputs, [("logits", ["n", 2])], weights)
    onnxinfo.analyze("two.onnx", "adult.csv", "t.h5", layers=["logits"], limit=3)
    with onnxinfo.open("t.h5") as archive:
        assert archive["two"].recipe["perturbed"] == ["hours_per_week", "age"]
        assert archive["two"].unit_names == ["Hours per week", "age"]
        assert archive["two"].values("sid")["converged"].all()


def test_the_commands_of_the_page_on_recordings(tmp_path, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        path = tmp_path / "recordings" / ("yes", "no")[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, RNG.uniform(-1, 1, 64), 16_000)
    nodes = [
        node("Conv", "x K", "c", strides=[4]),
        node("Relu", "c", "hidden"),
        node("ReduceMean", "hidden", "logits", axes=[2], keepdims=0),
    ]
    save("keywords.onnx", nodes, [("x", 1, ["n", 1, 64])], [("logits", ["n", 3])], [weight("K", 3, 1, 8)])
    nodes = [node("Flatten", "x", "all"), *HEAD]
    save(
        "spectra.onnx", nodes, [("x", 1, ["n", 6, 5])], [("logits", ["n", 2])], [weight("W", 30, 5), weight("V", 5, 2)]
    )
    np.savez("spectra.npz", mel=RNG.normal(size=(3, 6, 5)).astype(np.float32))
    lines = commands("audio.md")
    assert len(lines) == 5
    for line in lines:
        run(line)
    with onnxinfo.open("keywords.h5") as archive:
        found = archive["keywords"]
        assert (found.axes, found.sample_names[0]) == (("channel", "time"), "no/1.wav")
        assert set(found.labels) == {"no", "yes"}


def test_the_commands_of_the_page_on_texts(tmp_path, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "good", "bad", "film"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save("tokenizer.json")
    (tmp_path / "texts.txt").write_text("a good film\nbad\n")
    (tmp_path / "reviews.csv").write_text('review,stars\n"a bad, bad film",1\na good film,5\n')
    np.savez("ids.npz", ids=np.array([[2, 3, 5], [4, 0, 0]]), mask=np.array([[1, 1, 1], [1, 0, 0]]))
    nodes = [
        node("Gather", "E input_ids", "embedding"),
        node("Cast", "attention_mask", "m", to=1),
        node("Unsqueeze", "m last", "mask"),
        node("Mul", "embedding mask", "kept"),
        node("MatMul", "kept W", "a"),
        node("Tanh", "a", "hidden"),
        node("ReduceMean", "hidden", "logits", axes=[1], keepdims=0),
    ]
    inputs = [(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")]
    weights = [weight("E", 6, 4), weight("W", 4, 3), integers("last", -1)]
    save("sentiment.onnx", nodes, inputs, [("logits", ["n", 3])], weights)
    lines = commands("text.md")
    assert len(lines) == 7
    for line in lines:
        run(line)
    values = [[row["value"] for row in onnxinfo.query(f"{name}.h5")] for name in ("sentiment", "ids")]
    assert values[0] == values[1]
    with onnxinfo.open("sentiment.h5") as archive:
        assert np.isnan(archive["sentiment"].map("sid", 0, 1)[1:]).all()
