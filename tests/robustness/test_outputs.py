"""Outputs never destroy anything: a list of all commands that write, each tried on every file it must not replace."""

import os
import resource
import shlex
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import archive_fakes as fakes
import click
import graphs
import h5py
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

import onnxinfo
from onnxinfo import ArchiveError, InputError, OnnxinfoError, UsageError, kinds, outputs, replacing
from onnxinfo.cli import COMMANDS, cli
from onnxinfo.inputs.files import named_files
from onnxinfo.models import path as bundled

pytestmark = pytest.mark.usefixtures("trusted_archives")

SAMPLES = "--inputs samples.npz:images --limit 1"
MODEL = ("model.onnx", "weights.data")
ANALYSIS = (*MODEL, "samples.npz", "labels.npz")


@dataclass(frozen=True)
class Recipe:
    """Recipe for trying a command that writes.

    Attributes
    ----------
    line
        Its arguments, without the output.
    inputs
        All files that it reads then.
    output
        An output that nothing stands against.
    writes
        ``file``; ``runs``, added to an archive; ``archive``, which must not exist; ``folder``.
    kind
        Kind of the file.
    """

    line: str
    inputs: tuple[str, ...]
    output: str
    writes: str = "file"
    kind: kinds.Kind | None = None


_LABELS = "--labels labels.npz:labels"
#: By command; with its option, if that is not the usual one for outputs.
RECIPES = {
    "analyze": Recipe(f"model.onnx {SAMPLES} {_LABELS} --layers relu", ANALYSIS, "new.h5", "runs"),
    "coherency": Recipe(f"model.onnx {SAMPLES} {_LABELS} --layers relu --metric gradient", ANALYSIS, "new.h5", "runs"),
    "robustness": Recipe(f"model.onnx {SAMPLES} {_LABELS}", ANALYSIS, "new.h5", "runs"),
    "oneshot": Recipe(f"model.onnx {SAMPLES} {_LABELS} --layers relu", ANALYSIS, "new", "folder"),
    "demo": Recipe("", (), "new", "folder"),
    "sensitivity": Recipe(
        f"model.onnx {SAMPLES} {_LABELS} --layers relu --change absolute:1", ANALYSIS, "new.h5", "runs"
    ),
    "recommend bits": Recipe(
        f"model.onnx {SAMPLES[:-1]}8 {_LABELS} --accuracy .01", ANALYSIS, "new.json", kind=kinds.JSON
    ),
    "recommend bits --plot": Recipe(
        f"model.onnx {SAMPLES[:-1]}8 --mean-bits 4", (*MODEL, "samples.npz"), "new.png", kind=kinds.PNG
    ),
    "recommend channels": Recipe(
        f"model.onnx {SAMPLES[:-1]}8 --share .25", (*MODEL, "samples.npz"), "new.json", kind=kinds.JSON
    ),
    "leakage": Recipe(f"model.onnx {SAMPLES[:-1]}8 {_LABELS} --layers relu", ANALYSIS, "new.png", kind=kinds.PNG),
    "decoder train": Recipe(
        f"model.onnx {SAMPLES[:-1]}8 --layers relu --steps 1", (*MODEL, "samples.npz"), "new", "folder"
    ),
    "merge": Recipe("result.h5 second.h5", ("result.h5", "second.h5"), "new.h5", "archive"),
    "recover": Recipe("result.h5", ("result.h5",), "new.h5", "archive"),
    "query": Recipe("result.h5 second.h5", ("result.h5", "second.h5"), "new.txt", kind=kinds.TABLE),
    "summary": Recipe("result.h5 --run one", ("result.h5",), "new.txt", kind=kinds.TABLE),
    "plot": Recipe("result.h5 curve", ("result.h5",), "new.png", kind=kinds.PNG),
    "sweep": Recipe(f"model.onnx {SAMPLES} {_LABELS} --layers relu --alpha 1e-3 1e-2", ANALYSIS, "new.h5", "runs"),
    "ranking": Recipe("result.h5 second.h5", ("result.h5", "second.h5"), "new.txt", kind=kinds.TABLE),
    "power": Recipe("result.h5", ("result.h5",), "new.txt", kind=kinds.TABLE),
    "compare": Recipe("result.h5 second.h5", ("result.h5", "second.h5"), "new.txt", kind=kinds.TABLE),
    "compare --verdict": Recipe(
        "result.h5 second.h5 --fail-if gradient>+1e9", ("result.h5", "second.h5"), "new.json", kind=kinds.JSON
    ),
    "compare --plot": Recipe(
        "result.h5 second.h5 --fail-if gradient>+1e9", ("result.h5", "second.h5"), "new.png", kind=kinds.PNG
    ),
    "report": Recipe(
        "result.h5 second.h5 --model model.onnx", ("result.h5", "second.h5", *MODEL), "new.html", kind=kinds.HTML
    ),
    "annotate": Recipe("model.onnx result.h5", (*MODEL, "result.h5"), "new.onnx", kind=kinds.ONNX),
    "export": Recipe("result.h5", ("result.h5",), "new.csv", kind=kinds.CSV),
    "similarity": Recipe(
        f"model.onnx model.onnx {SAMPLES[:-1]}8 --layers relu", (*MODEL, "samples.npz"), "new.txt", kind=kinds.TABLE
    ),
    "layers": Recipe("model.onnx", MODEL, "new.txt", kind=kinds.TABLE),
    "expose": Recipe("model.onnx", MODEL, "new.onnx", kind=kinds.ONNX),
    "extract": Recipe("model.onnx --to logits", MODEL, "new.onnx", kind=kinds.ONNX),
    "rescale": Recipe("model.onnx", MODEL, "new.onnx", kind=kinds.ONNX),
    "prune": Recipe(
        f"model.onnx --channels channels.json {SAMPLES[:-1]}2",
        (*MODEL, "channels.json", "samples.npz"),
        "new.onnx",
        kind=kinds.ONNX,
    ),
}
FILES = [name for name, recipe in RECIPES.items() if recipe.writes == "file"]
ON_INPUTS = [(name, read) for name, recipe in RECIPES.items() for read in recipe.inputs]


def commands(command=cli, prefix=()):
    """Yield all commands with their names."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands(command.get_command(click.Context(command), name), (*prefix, name))
    else:
        yield " ".join(prefix), command


#: Options that name files which are read.
READING = {"--channels", "--config", "--model", "--texts"}


def output_options(command):
    """Options that name outputs: those of files that are not known to be read."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    return [p for p in options if "-o" in p.opts or (isinstance(p.type, click.Path) and READING.isdisjoint(p.opts))]


def option_of(name):
    """Return the name of a recipe's command, and the option that names its output."""
    command, _, option = name.partition(" --")
    return command, f"--{option}" if option else "-o"


def arguments(name, output):
    """Return the arguments of a recipe's command, with an output."""
    command, option = option_of(name)
    return [*command.split(), *shlex.split(RECIPES[name].line), option, str(output)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    onnx.save(
        onnx.load(bundled("digits-cnn.onnx")),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.data",
        size_threshold=0,
    )
    with np.load(bundled("digits.npz")) as digits:
        np.savez(folder / "samples.npz", images=digits["images"][:8])
        np.savez(folder / "labels.npz", labels=digits["labels"][:8])
    loaded = onnxinfo.load(folder / "model.onnx")
    layers = [layer for layer in onnxinfo.list_layers(loaded) if layer.default][:4]
    described = fakes.schema(layers=layers, recipe=fakes.schema().recipe | {"model_sha256": loaded.sha256})
    for name, run in {"result": "one", "second": "two", "other": "three"}.items():
        fakes.make(folder / f"{name}.h5", run, described)
    (folder / "channels.json").write_text('{"relu_1": {"1": [0]}}')
    (folder / "notes.txt").write_text("Nothing that a command writes.\nCertainly, not this.\n")
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(name, output, *more):
    """Run a command; return the error, or None."""
    line = [*arguments(name, output), *more]
    result = CliRunner().invoke(cli, ["-q", *line])
    if result.exception is not None and not isinstance(result.exception, OnnxinfoError):
        raise AssertionError(result.output) from result.exception
    return result.exception


def force(name):
    """The option, if the command has it."""
    command = dict(commands())[option_of(name)[0]]
    return ["--force"] if any("--force" in param.opts for param in command.params) else []


def contents(folder):
    """All files with their bytes: none may be changed, added or missing."""
    return {
        str(each.relative_to(folder)): (
            each.lstat().st_mode,
            os.readlink(each) if each.is_symlink() else each.read_bytes() if each.is_file() else None,
        )
        for each in sorted(folder.rglob("*"))
    }


@contextmanager
def unchanged(folder):
    before = contents(folder)
    yield
    after = contents(folder)
    assert [*after] == [*before]
    assert after == before


@contextmanager
def idle(monkeypatch):
    """Fail if anything is computed: models are checked or archives read."""
    opened = onnxinfo.archive.reading.open_to_read

    def read(path):
        # Checking whether the output is an archive does not count as work.
        return work() if kinds.kind_of(path) is kinds.HDF5 else opened(path)

    def work(*_, **__):
        raise AssertionError("work was done before the output was decided on")

    with monkeypatch.context() as patched:
        patched.setattr("onnxinfo.graph.model.check", work)
        patched.setattr("onnxinfo.archive.reading.open_to_read", read)
        patched.setattr("onnxinfo.archive.runs.open_damaged", work)
        yield


def test_every_command_with_an_output_has_a_recipe():
    found = {
        (name, next(o for o in ("-o", *p.opts) if o in p.opts)) for name, c in commands() for p in output_options(c)
    }
    assert found == {option_of(name) for name in RECIPES}
    assert COMMANDS.keys() >= {name.split()[0] for name in RECIPES}


def test_every_recipe_names_what_its_line_names(folder):
    for recipe in RECIPES.values():
        named = {file.name for part in shlex.split(recipe.line) for file in named_files(part)}
        assert named == {*recipe.inputs}


@pytest.mark.parametrize("link", ["itself", "hard link", "symbolic link"])
@pytest.mark.parametrize(("name", "read"), ON_INPUTS)
def test_no_output_replaces_an_input(name, read, link, folder, monkeypatch):
    if (name, link) in [("recover", "itself"), ("recover", "symbolic link")]:
        pytest.skip("repairs the archive in its place")
    output = folder / read
    if link != "itself":
        # A suffix that the command accepts, so that it is not the reason for refusal.
        output = folder / RECIPES[name].output
        (output.hardlink_to if link == "hard link" else output.symlink_to)(folder / read)
    for options in ([], force(name)):
        with unchanged(folder), idle(monkeypatch):
            error = run(name, output, *options)
        if RECIPES[name].writes in ("file", "runs") and output.suffix == Path(RECIPES[name].output).suffix:
            assert isinstance(error, UsageError)
            assert "would replace the input" in str(error)
        else:
            assert isinstance(error, UsageError | ArchiveError)
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", RECIPES)
def test_another_archive_is_replaced_by_force_only(name, folder, monkeypatch):
    recipe = RECIPES[name]
    if recipe.writes == "runs":
        assert run(name, "other.h5") is None
        with onnxinfo.open("other.h5") as archive:
            assert archive.runs[0] == "three"
            assert len(archive.runs) > 1
            assert onnxinfo.validate("other.h5").valid
        return
    output = folder / recipe.output
    (folder / "other.h5").rename(output)
    with unchanged(folder), idle(monkeypatch):
        assert isinstance(run(name, output), UsageError | ArchiveError)
    if recipe.writes == "file":
        assert run(name, output, "--force") is None
        assert kinds.kind_of(output) is recipe.kind
    else:
        with unchanged(folder), idle(monkeypatch):
            assert isinstance(run(name, output, *force(name)), UsageError | ArchiveError)


@pytest.mark.parametrize("content", [b"Dear diary,\nthis is text.\n", b"\x00\x01binary", b"GIF89a", b"2, 3\n4, 5\n"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_file_of_another_kind_is_not_replaced(name, content, folder, monkeypatch):
    output = folder / RECIPES[name].output
    output.write_bytes(content)
    with unchanged(folder), idle(monkeypatch):
        assert isinstance(run(name, output), UsageError | ArchiveError)
    if RECIPES[name].writes == "file":
        assert run(name, output, "--force") is None
        assert kinds.kind_of(output) is RECIPES[name].kind


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file_and_one_of_the_same_kind_are_replaced(name, folder):
    output = folder / RECIPES[name].output
    output.touch()
    output.chmod(0o640)
    assert run(name, output) is None
    assert kinds.kind_of(output) is RECIPES[name].kind
    assert stat.S_IMODE(output.stat().st_mode) == 0o640
    assert run(name, output) is None


@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link_stays_and_its_file_is_written(name, folder):
    (folder / "elsewhere").mkdir()
    output = folder / RECIPES[name].output
    output.symlink_to("elsewhere/file")
    for _ in range(2):
        assert run(name, output) is None
        assert os.readlink(output) == "elsewhere/file"
        assert kinds.kind_of(folder / "elsewhere" / "file") is RECIPES[name].kind
    # An annotated model keeps its external data, which have to be in its folder.
    beside = {"weights.data"} if name == "annotate" else set()
    assert {*os.listdir(folder / "elsewhere")} == {"file", *beside}


@contextmanager
def file_size_limited(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", FILES)
def test_a_write_that_fails_leaves_the_old_file(name, folder):
    output = folder / RECIPES[name].output
    assert run(name, output) is None
    with unchanged(folder), file_size_limited(20):
        error = run(name, output)
    assert isinstance(error, OnnxinfoError)
    assert output.name in str(error)


@pytest.mark.parametrize("name", FILES)
def test_an_interrupted_write_leaves_the_old_file(name, folder, monkeypatch):
    output = folder / RECIPES[name].output
    assert run(name, output) is None

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(replacing, "fsync", interrupt)
    with unchanged(folder):
        line = arguments(name, output)
        assert CliRunner().invoke(cli, ["-q", *line]).exit_code == 1


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv", "markdown", "parquet"])
def test_every_format_knows_its_own_files(format_, folder):
    for _ in range(2):
        assert run("query", "new", "--format", format_) is None
    other = "csv" if format_ == "table" else "table"
    with unchanged(folder):
        assert isinstance(run("query", "new", "--format", other), UsageError)


def test_a_full_disk_under_parquet(folder):
    assert run("query", "new", "--format", "parquet") is None
    with unchanged(folder), file_size_limited(20):
        assert isinstance(run("query", "new", "--format", "parquet"), ArchiveError)


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_figures_know_their_own_files(suffix, folder):
    output = f"new{suffix}"
    for _ in range(2):
        assert run("plot", output) is None
    shutil.copy(output, "new.png")
    with unchanged(folder):
        assert isinstance(run("plot", "new.png"), UsageError)


def test_netcdf_is_replaced_by_force_only(folder):
    assert run("export", "new.nc") is None
    with unchanged(folder):
        assert isinstance(run("export", "new.nc"), UsageError)
    assert run("export", "new.nc", "--force") is None


# The files of folders.


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("oneshot", "model.h5"),
        ("oneshot", "model-curve.png"),
        ("oneshot", "model-maps.png"),
        ("oneshot", "model.html"),
        ("demo", "digits.h5"),
        ("demo", "curve.png"),
        ("demo", "maps.png"),
    ],
)
def test_files_that_stand_in_a_folder(name, file, folder, monkeypatch):
    (folder / "new").mkdir()
    shutil.copy("notes.txt", folder / "new" / file)
    with unchanged(folder), idle(monkeypatch):
        assert isinstance(run(name, "new"), UsageError | ArchiveError)
    if name == "demo":
        return
    (folder / "new" / file).unlink()
    (folder / "new" / file).hardlink_to(folder / "labels.npz")
    with unchanged(folder), idle(monkeypatch), pytest.raises(UsageError, match="would replace the input"):
        raise run(name, "new", "--force")


def test_a_folder_keeps_what_it_holds(folder):
    assert run("oneshot", "new") is None
    shutil.copy("notes.txt", "new/model.html")
    with unchanged(folder):
        assert isinstance(run("oneshot", "new", "--overwrite"), UsageError)
    assert run("oneshot", "new", "--overwrite", "--force") is None
    assert kinds.kind_of(Path("new/model.html")) is kinds.HTML


def test_decoders_replace_only_decoders(folder, monkeypatch):
    assert run("decoder train", "new") is None
    weights, description = (next(Path("new").glob(f"*.{ending}")) for ending in ("safetensors", "json"))
    description.unlink()
    assert run("decoder train", "new") is None
    description.unlink()
    shutil.copy("notes.txt", weights)
    monkeypatch.setattr("onnxinfo.analysis.decoders.train_decoders", lambda *_: pytest.fail("trained"))
    with unchanged(folder), pytest.raises(UsageError, match="exists and is something else"):
        raise run("decoder train", "new")


def test_no_decoders_are_trained_where_a_file_is(folder, monkeypatch):
    (folder / "new.decoders").write_text("mine")
    with unchanged(folder), idle(monkeypatch), pytest.raises(ArchiveError, match="is not a folder"):
        raise run("analyze", "new.h5", "--metric", "ru")


# What is an input.


def test_samples_in_hdf5_are_an_input(folder, monkeypatch):
    fakes.make(folder / "samples.h5")
    with h5py.File("samples.h5", "a") as file:
        file["x"] = np.zeros((2, 1, 8, 8), "f4")
    options = ["--inputs", f"input={folder}/samples.h5:/x"]
    with unchanged(folder), idle(monkeypatch), pytest.raises(UsageError, match="would replace the input"):
        raise run("analyze", "samples.h5", *options)


@pytest.mark.parametrize("option", ["--labels", "--foreground", "--metric ru --decoder-inputs"])
@pytest.mark.parametrize("name", ["analyze", "coherency"])
def test_what_options_name_is_an_input(name, option, folder, monkeypatch):
    with unchanged(folder), idle(monkeypatch), pytest.raises(UsageError, match="would replace the input"):
        raise run(name, "other.h5", *option.split(), "other.h5:/x")


def test_the_texts_of_a_plot_are_an_input(folder, monkeypatch):
    (folder / "texts.png").write_text("a b c\n")
    with unchanged(folder), idle(monkeypatch), pytest.raises(UsageError, match="would replace the input"):
        onnxinfo.plot("result.h5", "units", "texts.png", texts="texts.png", force=True)


@pytest.mark.parametrize("spec", ["images", "images/*.png", "images/a.png"])
def test_images_of_a_folder_are_inputs(spec, folder):
    (folder / "images" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        Image.new("L", (8, 8)).save(folder / "images" / name)
    (folder / "images" / "result.h5").write_bytes(b"")
    (folder / "link.png").hardlink_to(folder / "images" / "a.png")
    for output in ("images/a.png", "link.png"):
        with pytest.raises(UsageError, match="would replace the input"):
            outputs.claim(output, kinds.PNG, inputs=[spec], force=True)
    outputs.claim("images/new.png", kinds.PNG, inputs=[spec])
    outputs.claim("images/result.h5", kinds.PNG, inputs=[spec])


def test_a_library_of_operators_is_an_input(folder, monkeypatch):
    monkeypatch.setattr(outputs, "_protected", [])
    outputs.protect("notes.txt")
    with pytest.raises(UsageError, match="would replace the input"):
        outputs.claim("notes.txt", kinds.HTML, force=True)


def test_names_differ_in_case_only(folder, monkeypatch):
    """Simulates a file system that ignores case and invents inode numbers."""
    monkeypatch.setattr(os.path, "samefile", lambda one, other: Path(one).parent == Path(other) or one == other)
    shutil.copy("result.h5", "RESULT.h5")
    outputs.spare("RESULT.h5", ["result.h5"])
    monkeypatch.setattr(outputs, "_ignores_case", lambda _: True)
    with pytest.raises(UsageError, match="would replace the input"):
        outputs.spare("RESULT.h5", ["result.h5"])


def test_names_differ_in_the_form_of_an_accent_only(folder, monkeypatch):
    """A letter with its accent in one code point or in two: the same name where a file system ignores that."""
    monkeypatch.setattr(os.path, "samefile", lambda one, other: Path(one).parent == Path(other) or one == other)
    monkeypatch.setattr(outputs, "_ignores_case", lambda _: True)
    for name in ("caf\u00e9.h5", "cafe\u0301.h5"):
        shutil.copy("result.h5", name)
    with pytest.raises(UsageError, match="would replace the input"):
        outputs.spare("caf\u00e9.h5", ["cafe\u0301.h5"])


def test_whether_a_file_system_ignores_case(folder, monkeypatch):
    assert not outputs._ignores_case(folder / "notes.txt")
    shutil.copy("notes.txt", "NOTES.TXT")
    assert not outputs._ignores_case(folder / "notes.txt")
    monkeypatch.setattr(os, "listdir", lambda _: ["notes.txt"])
    assert outputs._ignores_case(folder / "notes.txt")


def test_saving_a_model_spares_its_file(folder):
    loaded = onnxinfo.load("model.onnx")
    for output in ("model.onnx", "weights.data"):
        for model in ("model.onnx", loaded, onnxinfo.prune(loaded, 0.5)):
            with unchanged(folder), pytest.raises(UsageError, match="would replace the input"):
                onnxinfo.save(model, output, force=True)


def test_weights_beside_a_model_stay(folder, monkeypatch):
    monkeypatch.setattr("onnxinfo.graph.model._MARGIN", onnxinfo.graph.model.MAX_PROTO_BYTES)
    onnxinfo.save("model.onnx", "large.onnx")
    first = Path("large.onnx.data").read_bytes()
    onnxinfo.save(onnxinfo.prune("model.onnx", 0.5), "large.onnx")
    assert Path("large.onnx.data").read_bytes() == first
    assert Path("large.onnx.2.data").read_bytes() != first
    assert onnxinfo.load("large.onnx").proto == onnxinfo.prune("model.onnx", 0.5).proto

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with unchanged(folder), pytest.raises(OnnxinfoError, match="No space left"):
        onnxinfo.save("model.onnx", "large.onnx")


# What is written, and to which file.


@pytest.mark.parametrize("offset", [0, 512, 1024, 4096])
def test_hdf5_is_found_behind_a_user_block(offset, tmp_path):
    with h5py.File(tmp_path / "a.html", "w", userblock_size=offset) as file:
        file["x"] = np.zeros(3)
    if offset:
        with (tmp_path / "a.html").open("r+b") as file:
            file.write(b"<html>")
    assert kinds.kind_of(tmp_path / "a.html") is kinds.HDF5
    with pytest.raises(UsageError, match="an HDF5 file"):
        outputs.claim(tmp_path / "a.html", kinds.HTML)


@pytest.mark.parametrize(
    "text",
    ["[section]\nkey = [1]", "{not json}", "a, b\n1, 2", "a,b\n1,2,3\n", "a,a\n1,2\n", "one\ntwo\n", "<p>page</p>"],
)
def test_text_that_is_of_no_kind(text, tmp_path):
    (tmp_path / "a").write_text(text)
    assert kinds.kind_of(tmp_path / "a") is None


def test_a_long_json_file_is_json(tmp_path):
    (tmp_path / "a").write_text("[\n" + ",\n".join('{"layer": "relu é", "value": -1.5e-3}' for _ in range(9000)) + "]")
    assert kinds.kind_of(tmp_path / "a") is kinds.JSON


def test_part_of_a_model_is_no_model(tmp_path):
    data = graphs.relu_model().SerializeToString()
    (tmp_path / "a").write_bytes(data)
    assert kinds.kind_of(tmp_path / "a") is kinds.ONNX
    (tmp_path / "a").write_bytes(data[:-1])
    assert kinds.kind_of(tmp_path / "a") is None


def in_shell(line):
    done = subprocess.run(
        line.replace("onnxinfo", f"{shlex.quote(sys.executable)} -m onnxinfo"),
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_streams_are_written_to(folder):
    code, printed, error = in_shell("onnxinfo query result.h5 --format csv")
    assert (code, error) == (0, "")
    assert in_shell("onnxinfo query result.h5 --format csv -o /dev/stdout") == (0, printed, "")
    (folder / "log").write_text("before\n")
    assert in_shell("onnxinfo query result.h5 --format csv -o /dev/stdout >> log") == (0, "", "")
    assert (folder / "log").read_text() == "before\n" + printed
    os.mkfifo("pipe")
    assert in_shell("cat pipe & onnxinfo query result.h5 --format csv -o pipe; wait")[1] == printed
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    assert in_shell("onnxinfo report result.h5 -q -o /dev/null") == (0, "", "")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    "line",
    [
        "onnxinfo query result.h5 >> result.h5",
        "onnxinfo query result.h5 -o /dev/stdout >> result.h5",
        "onnxinfo layers - -o model.onnx --force < model.onnx",
        "onnxinfo expose - -o model.onnx < model.onnx",
        "onnxinfo expose model.onnx -o - >> model.onnx",
    ],
)
def test_redirections_are_seen_through(line, folder):
    with unchanged(folder):
        code, _, error = in_shell(line)
        assert code == 2
        assert "would replace the input" in error


def test_a_stream_takes_no_part_of_what_failed(folder, capfd):
    target = outputs.claim("/dev/stdout", kinds.HTML)
    with pytest.raises(ValueError, match="stop"), target.writing() as part:  # noqa: PT012
        part.write_text("half")
        raise ValueError("stop")
    with target.writing() as part:
        part.write_text("whole")
    assert capfd.readouterr().out == "whole"


@pytest.mark.parametrize("output", [".", "none/file", "loop", "a\0b", "x" * 300])
def test_places_where_no_file_can_be(output, folder):
    (folder / "loop").symlink_to("loop")
    with unchanged(folder), pytest.raises(UsageError):
        outputs.claim(output, kinds.HTML, force=True)


@pytest.mark.parametrize("protected", ["file", "folder"])
def test_write_protection_holds(protected, folder, monkeypatch):
    (folder / "new.html").touch()
    denied = {"file": folder / "new.html", "folder": folder}[protected]
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != denied)
    with unchanged(folder), pytest.raises(InputError, match="write-protected"):
        outputs.claim("new.html", kinds.HTML, force=True, failure=InputError)


def test_the_lock_of_an_archive_is_no_other_file(folder):
    (folder / "new.h5.lock").write_text("mine")
    with unchanged(folder), pytest.raises(ArchiveError, match="not empty"):
        fakes.make("new.h5")


def test_a_writer_leaves_what_others_are_writing(folder):
    (folder / ".new.h5.csv.abcdefgh.part").touch()
    (folder / ".new.h5.abcdefgh.part").touch()
    fakes.make("new.h5")
    assert [each.name for each in folder.glob(".*.part")] == [".new.h5.csv.abcdefgh.part"]


def test_what_was_printed_before_a_stream_stays_before_it(folder):
    program = (
        "from onnxinfo.kinds import JSON\n"
        "from onnxinfo.outputs import claim\n"
        "print('first')\n"
        "with claim('/dev/stdout', JSON).writing() as part:\n"
        "    part.write_text('second')\n"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("both.txt", "w") as both:
        subprocess.run([sys.executable, "-c", program], stdout=both, check=True, timeout=60, env=buffered)
    assert Path("both.txt").read_text() == "first\nsecond"


def test_a_folder_made_for_nothing_is_removed(folder):
    with pytest.raises(RuntimeError), outputs.made_folder(Path("new/inner")):
        raise RuntimeError
    assert not Path("new").exists()

    def fail_after_a_file():
        with outputs.made_folder(Path("new/inner")):
            Path("new/inner/kept").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_a_file()
    assert Path("new/inner/kept").exists()
