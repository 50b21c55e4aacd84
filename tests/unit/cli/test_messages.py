"""Messages use Python syntax, rendered as options on the command line."""

import ast
import functools
import pickle
import re
import sys

import archive_fakes as fakes
import click
import pytest
from places import ROOT

import onnxinfo
from onnxinfo.cli import COMMANDS, cli, main
from onnxinfo.cli.rendering import CALL, KEYWORD, WORD, as_options
from onnxinfo.config import entries
from onnxinfo.errors import UnknownLayerError, UnknownRunError
from onnxinfo.models import path

# An archive's readme is addressed to programmers.
LIBRARY = sorted(
    file
    for file in (ROOT / "onnxinfo").rglob("*.py")
    if not {"cli", "models", "conventions.py"} & {*file.relative_to(ROOT).parts}
)
COMMAND_LINE = sorted((ROOT / "cli").glob("*.py"))
MODEL = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"


def texts(file, *, documentation=False):
    """Yield every text in a module with its line, with 0 for the fields of f-strings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documents = set() if documentation else {
        id(each.body[0].value) for each in ast.walk(tree)
        if isinstance(each, documented) and each.body and isinstance(each.body[0], ast.Expr)
    }  # fmt: skip
    parts = {id(part) for each in ast.walk(tree) if isinstance(each, ast.JoinedStr) for part in each.values}
    for each in ast.walk(tree):
        if isinstance(each, ast.JoinedStr):
            filled = (part.value if isinstance(part, ast.Constant) else "0" for part in each.values)
            yield f"{file.name}:{each.lineno}", "".join(map(str, filled))
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in parts | documents:
            yield f"{file.name}:{each.lineno}", each.value


@functools.cache
def library():
    """Return all texts of the library, each with its line."""
    return [found for file in LIBRARY for found in texts(file)]


def commands(group=cli, name="onnxinfo"):
    context = click.Context(group)
    yield group
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        if isinstance(command, click.Group):
            yield from commands(command, each)
        else:
            yield command


ALL = [*commands()]
FLAGS = {flag for each in ALL for option in each.params for flag in [*option.opts, *option.secondary_opts]}
FLAGS |= {"--help", "--version"}


def test_no_message_of_the_library_names_an_option():
    assert len(LIBRARY) > 150
    named = [(where, text) for where, text in library() if re.search(r"(?<![\w-])--[a-z]", text)]
    assert named == []


def test_no_message_of_the_library_names_a_command():
    """Calls, such as onnxinfo.recover(...), are shown as commands on the command line."""
    named = [(where, text) for where, text in library() if re.search(r"'onnxinfo [a-z]+", text)]
    assert [where for where, _ in named if not where.startswith("sections.py")] == []


def test_every_setting_that_a_message_names_is_shown_as_an_option():
    """Names of one word, such as alpha, are the same in both languages."""
    names = {each.setting.flat for each in entries() if "_" in each.setting.flat}
    options = {each.name for command in ALL for each in command.params}
    assert names <= options
    analyze = cli.get_command(click.Context(cli), "analyze")
    messages = [(where, text) for where, text in library() if not where.startswith("sections.py") or "give" in text]
    found = [(where, name) for where, text in messages for name in WORD.findall(text) if name in names and " " in text]
    assert len(found) > 4
    for where, name in found:
        assert as_options(f"{name} is", analyze) == f"--{name.replace('_', '-')} is", where


def test_every_keyword_in_a_message_is_an_option_of_a_command():
    found = [(where, *each) for where, text in library() for each in KEYWORD.findall(text)]
    assert len(found) > 35
    for where, name, value in found:
        shown = {as_options(f"{name}={value}", command) for command in ALL}
        assert any(each.startswith("--") for each in shown), (where, name)


def test_every_function_in_a_message_is_public_and_a_command():
    found = [(where, each) for where, text in library() for each in CALL.finditer(text)]
    assert len(found) >= 4
    for where, each in found:
        assert each[1] in onnxinfo.__all__, where
        assert as_options(each[0], None) != each[0], where


def test_the_command_line_names_only_options_that_exist():
    assert len(FLAGS) > 100
    for file in COMMAND_LINE:
        for where, text in texts(file, documentation=True):
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])", text))
            assert named <= FLAGS, where


@pytest.mark.parametrize(
    ("text", "command", "shown"),
    [
        ("give labels=...", "analyze", "give --labels"),
        ("give labels=...; or not", "demo", "give labels=...; or not"),
        ("choose another run=..., or overwrite=True", "analyze", "choose another --run, or --overwrite"),
        ("add it (by='depth')", "plot", "add it (--by depth)"),
        ("give scale=0.00392157 or preset=...", "doctor", "give --scale 0.00392157 or --preset"),
        ("give scale=255, or scale=1.", "doctor", "give --scale 255, or --scale 1."),
        ("give decoder_inputs=... or more", "analyze", "give --decoder-inputs or more"),
        ("name two with run=['A', 'B']", "plot", "name two with --run A --run B"),
        ("give shuffle=False", "analyze", "give --no-shuffle"),
        ("give inputs='NAME=SPEC,...' for each", "analyze", "give --inputs NAME=SPEC,... for each"),
        ("name metrics=... of it", "analyze", "name --metric of it"),
        ("with onnxinfo.compare(by='depth')", "plot", "with 'onnxinfo compare --by depth'"),
        ("mean_bits=nan: a number", "recommend bits", "--mean-bits nan: a number"),
        ("keep_float=-1: at least 0", "recommend bits", "--keep-float -1: at least 0"),
        ("share=inf, or share=-0.5", "recommend channels", "--share inf, or --share -0.5"),
        ("difference=1e-05 and chance=1e+20", "power", "--difference 1e-05 and --chance 1e+20"),
        ("confidence=nano", "power", "confidence=nano"),
        ("name one with metric=... or metrics=...", "annotate", "name one with --metric or --metric"),
        ("which needs onnxinfo.analyze(labels=...)", "compare", "which needs 'onnxinfo analyze --labels'"),
        ("use onnxinfo.robustness(...)", "analyze", "use 'onnxinfo robustness'"),
        ("with onnxinfo.register_ort_library(...)", "check", "with --ort-library"),
        (
            "normalize_by 'min_converged' is (min_converged)",
            "analyze",
            "--normalize-by 'min_converged' is (--min-converged)",
        ),
        ("batch_axis of min_converged.png", "analyze", "--batch-axis of min_converged.png"),
        ("'/data/overwrite=True/x.png'", "analyze", "'/data/overwrite=True/x.png'"),
        ("'overwrite=True.png' is none", "analyze", "'overwrite=True.png' is none"),
    ],
)
def test_keywords_are_shown_as_options(text, command, shown):
    assert as_options(text, command_of(*command.split())) == shown


def command_of(name, *inner):
    command = cli.get_command(click.Context(cli), name)
    return command.get_command(click.Context(command), *inner) if inner else command


#: Numbers that no option takes: each is refused under the option's own name.
REFUSED = {
    ("recommend", "bits", "--mean-bits"): ("nan", "inf", "-1", "1e-05"),
    ("recommend", "bits", "--accuracy"): ("nan", "inf", "-1", "1e+20"),
    ("recommend", "bits", "--mean-bits", "4", "--keep-float"): ("-1",),
    ("recommend", "channels", "--share"): ("nan", "inf", "-0.5", "1e+20"),
    ("leakage", "--mse"): ("nan", "-1"),
    ("leakage", "--psnr"): ("nan", "inf", "-1e5"),
    ("leakage", "--noise"): ("nan", "-1", "0"),
    ("sensitivity", "--change"): ("nan", "-1", "absolute:inf"),
    ("sensitivity", "--probes"): ("-1",),
    ("power", "--difference"): ("nan", "inf", "-1", "0"),
    ("power", "--chance"): ("nan", "-1", "1"),
    ("power", "--confidence"): ("nan", "inf", "-1"),
    ("compare", "--confidence"): ("nan", "inf", "-1", "1e-400"),
    ("ranking", "--confidence"): ("nan", "inf", "-1"),
}


@pytest.mark.parametrize("given", REFUSED, ids=" ".join)
def test_numbers_are_refused_under_the_name_of_the_option(given, monkeypatch, capsys, tmp_path):
    fakes.make(tmp_path / "a.h5", "one")
    fakes.make(tmp_path / "a.h5", "two")
    words = [word for word in given if not word.startswith("-")]
    source = [str(tmp_path / "a.h5")] if words[0] in ("power", "compare", "ranking") else [MODEL, "--inputs", IMAGES]
    inner = 2 if words[0] == "recommend" else 1
    for number in REFUSED[given]:
        code, shown = of_main(monkeypatch, capsys, "-q", *given[:inner], *source, *given[inner:], number)
        assert code == 2
        assert shown.count("\n") == 1
        assert not re.search(r"(?<!-)\b[a-z_]+=", shown), shown


def of_main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def test_an_error_is_shown_with_options(monkeypatch, capsys, tmp_path):
    (tmp_path / "m.onnx").write_text("no model")
    code, shown = of_main(monkeypatch, capsys, "-q", "prune", MODEL, "--keep", ".5", "-o", tmp_path / "m.onnx")
    assert code == 2
    assert shown.endswith("name another file, or replace it with --force\n")
    line = ["-q", "robustness", MODEL, "--inputs", IMAGES, "-o", tmp_path / "a.h5"]
    assert of_main(monkeypatch, capsys, *line) == (
        2, "onnxinfo: error: robustness needs to know the right classes; give --labels\n"
    )  # fmt: skip
    with pytest.raises(onnxinfo.UsageError, match=r"give labels=\.\.\.$"):
        onnxinfo.robustness(MODEL, IMAGES, tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (["--layers", "a", "b"], "--layers a --layers b"),
        (["--layers", "a", "b", "--metric", "sid"], "--layers a --layers b"),
        (["--metric=sid", "ru", "--layers", "a"], "--metric sid --metric ru"),
        (["--exclude", "c", "--layers", "a", "b", "c"], "--layers a --layers b"),
        (["--limit", "3", "b"], None),
        (["b"], None),
    ],
)
def test_only_options_given_are_repeated_in_the_hint(given, hint, monkeypatch, capsys):
    monkeypatch.setenv("ONNXINFO_EXCLUDE", "x")
    code, shown = of_main(monkeypatch, capsys, "analyze", "m", "--inputs", "x", "-o", "o.h5", *given)
    assert code == 2
    assert "unexpected extra argument" in shown
    assert (hint is None) == ("repeat the option" not in shown)
    assert hint is None or shown.rstrip().endswith(f"repeat the option: {hint}; see 'onnxinfo analyze --help'")


def test_invalid_requests_are_value_errors_and_unknown_names_are_key_errors(tmp_path):
    with pytest.raises(ValueError, match="limit 0 is not usable"):
        onnxinfo.InputConfig(limit=0)
    with pytest.raises(KeyError) as raised:
        onnxinfo.select_layers(onnxinfo.list_layers(MODEL), ["absent"])
    assert isinstance(raised.value, UnknownLayerError)
    assert str(raised.value).startswith("no layer matches 'absent'; did you mean")
    assert isinstance(raised.value, ValueError)
    again = pickle.loads(pickle.dumps(UnknownRunError("no run")))
    assert (type(again), str(again)) == (UnknownRunError, "no run")


def test_commands_of_messages_exist():
    found = {name for _, text in library() for name in re.findall(r"'onnxinfo ([a-z]+)", text)}
    assert found
    assert found <= {*COMMANDS}


WRONG_LINES = {
    "analyse m.onnx": "no command 'analyse' in onnxinfo; did you mean 'analyze', 'annotate'?; see 'onnxinfo --help'",
    "decoder trian": "no command 'trian' in onnxinfo decoder; did you mean 'train'?; see 'onnxinfo decoder --help'",
    "\x1b[2J": r"no command '\x1b[2J' in onnxinfo; there is 'analyze', ",
    "--nope layers": "no such option '--nope'; see 'onnxinfo --help'",
    "plot a.h5": "missing option '-o' / '--output'; see 'onnxinfo plot --help'",
    "query a.h5 --format x": "invalid value for '--format': 'x' is not one of 'table', ",
    "layers none.onnx": "'none.onnx' does not exist, expected an ONNX file",
}


@pytest.mark.parametrize("line", WRONG_LINES)
def test_every_error_is_one_line_of_one_form(line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == (1 if line.startswith("layers") else 2)
    said = capsys.readouterr().err
    assert said.startswith(f"onnxinfo: error: {WRONG_LINES[line]}")
    assert said.removesuffix("\n").isprintable()


@pytest.mark.parametrize("line", ["", "layers", "decoder"])
def test_a_command_without_arguments_prints_its_help(line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *line.split()])
    with pytest.raises(SystemExit):
        main()
    output = "".join(capsys.readouterr())
    assert output.startswith("Usage: onnxinfo")
    assert "error" not in output.splitlines()[0]
