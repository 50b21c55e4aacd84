"""The command line with and without a terminal: verbosity, colors, malicious names, shell completion."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import archive_fakes as fakes
import pytest
from processes import Command

from onnxinfo.archive.format import LayerRow
from onnxinfo.models import path as bundled

pty = pytest.importorskip("pty")

ONNXINFO = [sys.executable, "-m", "onnxinfo"]
HOSTILE = "relu\x1b[2J\x1b]0;taken\x07\x9b31m"
ANALYSIS = [
    *("analyze", str(bundled("digits-cnn.onnx")), "--inputs", f"{bundled('digits.npz')}:images"),
    *("--limit", "1", "--layers", "relu", "-o", "a.h5", "--overwrite"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    described = fakes.table_schema()
    layers = [LayerRow.of(row) for row in described.layers]
    layers[1] = replace(layers[1], name=HOSTILE)
    return fakes.make(tmp_path_factory.mktemp("terminal") / "a.h5", "first", replace(described, layers=layers))


def piped(folder, *arguments, **environment):
    """Run the command line without a terminal."""
    return Command(arguments, folder, environment=os.environ | environment).wait()


def in_terminal(folder, *arguments, **environment):
    """Run the command line in a terminal of 100 columns; return the exit code and the whole screen output."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    kept |= {"TERM": "xterm-256color"} | environment
    command = Command(arguments, folder, environment=kept, terminal=os.ttyname(theirs))
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way to say that nobody writes any more
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return command.wait()[0], shown.decode()


@pytest.mark.parametrize("place", ["before", "after"])
def test_how_much_is_said(place, tmp_path):
    command = ["expose", bundled("digits-cnn.onnx"), "-o", "exposed.onnx"]

    def said(*options):
        return piped(tmp_path, *([*options, *command] if place == "before" else [*command, *options]))

    remark = "exposed.onnx: 22 nodes, 1 inputs, 8 outputs\n"
    assert said() == (0, remark, "")
    assert said("--quiet") == (0, "", "")
    code, out, log = said("--verbose")
    assert (code, out) == (0, remark)
    assert log.endswith("22 nodes, opset ai.onnx 20\n")


def test_the_log_of_an_analysis(tmp_path):
    code, out, log = piped(tmp_path, *ANALYSIS, "--debug")
    assert code == 0
    assert "relu" in out
    assert "\x1b" not in out + log
    expected = [
        "22 nodes",
        "layers: 1 of 22",
        "by onnxinfo",
        "ONNX Runtime",
        "normalizers",
        "ascent steps",
        "sid of relu",
    ]
    assert [each for each in expected if each not in log] == []


def test_errors_are_one_line_unless_debugged(tmp_path):
    code, out, err = piped(tmp_path, "runs", "none.h5")
    assert (code, out, err.count("\n")) == (1, "", 1)
    for arguments in (["--debug", "runs", "none.h5"], ["runs", "none.h5", "--debug"]):
        code, out, err = piped(tmp_path, *arguments)
        assert (code, out) == (1, "")
        assert "Traceback" in err
    code, _, err = piped(tmp_path, "-q", "runs", "none.h5", "-v")
    assert code == 2
    assert "contradict" in err


def test_progress_has_colors_in_a_terminal_only(tmp_path):
    code, shown = in_terminal(tmp_path, *ANALYSIS)
    assert code == 0
    assert "\x1b[3" in shown
    assert "1/1" in shown
    _, without = in_terminal(tmp_path, *ANALYSIS, NO_COLOR="1")
    assert "1/1" in without
    assert not [code for code in ("\x1b[3", "\x1b[9") if code in without]


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv", "markdown"])
def test_names_control_no_terminal(format, archive):
    code, shown = in_terminal(archive.parent, "query", archive, "--metric", "sid", "--format", format)
    assert code == 0
    assert [c for c in shown if not c.isprintable() and c not in "\r\n"] == []
    assert "taken" in shown or format == "table"


def test_files_and_pipes_hold_the_data(archive, tmp_path):
    arguments = ["query", archive, "--metric", "sid", "--format"]
    _, out, _ = piped(tmp_path, *arguments, "json")
    assert json.loads(out)[1]["layer"] == HOSTILE
    code, shown = in_terminal(tmp_path, *arguments, "csv", "--raw", "-o", "a.csv")
    assert (code, shown) == (0, "")
    assert HOSTILE in (tmp_path / "a.csv").read_text()


def test_tables_have_the_terminals_width(archive):
    for width in (100, 70):
        _, shown = in_terminal(archive.parent, "query", archive, "--per", "sample", COLUMNS=str(width))
        lines = shown.splitlines()
        assert max(map(len, lines)) <= width
        assert "layer_index" in lines[-1]


def test_a_shell_completes(archive):
    """Bash evaluates the output of ``onnxinfo completion bash``, as when Tab is pressed."""
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("bash is not installed")
    script = """
eval "$(onnxinfo completion bash)"
COMP_WORDS=(onnxinfo query a.h5 --run f)
COMP_CWORD=4; COMPREPLY=(); _onnxinfo_completion onnxinfo; echo "${COMPREPLY[@]}"
COMP_WORDS=(onnxinfo query a.h5 --layers /layer2)
COMP_CWORD=4; COMPREPLY=(); _onnxinfo_completion onnxinfo; echo "${COMPREPLY[@]}"
COMP_WORDS=(onnxinfo query a.h5 --layers rel)
COMP_CWORD=4; COMPREPLY=(); _onnxinfo_completion onnxinfo; echo "[${COMPREPLY[@]}]"
COMP_WORDS=(onnxinfo qu)
COMP_CWORD=1; COMPREPLY=(); _onnxinfo_completion onnxinfo; echo "${COMPREPLY[@]}"
"""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "--norc", "-c", script], cwd=archive.parent, env=environment, capture_output=True, text=True, timeout=120
    )
    # The malicious name is omitted: it could not be typed anyway.
    assert (done.stderr, done.stdout.splitlines()) == ("", ["first", "/layer2/é/Relu_output_0", "[]", "query"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["runs", "a.h5"], ["query", "a.h5"], ["check", "--help"]])
def test_a_full_standard_output_is_one_line(archive, arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*ONNXINFO, *arguments], cwd=archive.parent, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 1
    assert done.stderr == "onnxinfo: error: No space left on device\n"


def with_closed(folder, closed, *arguments):
    """Run the command line from a shell that closes some standard streams."""
    shell = shutil.which("sh")
    assert shell is not None
    line = f'exec "$@" {closed}'
    return subprocess.run(
        [shell, "-c", line, "sh", *ONNXINFO, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["completion", "bash"], ["query", "a.h5"], ["runs", "a.h5", "--format", "json"]]
)
def test_a_closed_standard_output_is_one_line(archive, arguments):
    done = with_closed(archive.parent, ">&-", *arguments)
    assert done.returncode == 1
    assert done.stderr == "onnxinfo: error: standard output is closed; send it to a file, or to /dev/null\n"
    assert with_closed(archive.parent, ">&- 2>&-", *arguments).returncode == 1


def test_closed_streams_that_nothing_is_written_to_do_no_harm(archive):
    assert with_closed(archive.parent, "2>&-", "query", "a.h5").stdout.startswith("run ")
    done = with_closed(archive.parent, "<&- >&- 2>&-", "query", "a.h5", "--format", "csv", "-o", "table.csv")
    assert done.returncode == 0
    assert (archive.parent / "table.csv").read_text().startswith("run,")
    assert with_closed(archive.parent, "2>&-", "query", "missing.h5").returncode == 1
    # Progress is reported.
    assert with_closed(archive.parent, "2>&-", *ANALYSIS[:-2], "new.h5").returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["query", "a.h5", "--format", "csv"]])
def test_a_reader_that_has_exited_is_no_error(archive, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*ONNXINFO, *arguments], cwd=archive.parent, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
