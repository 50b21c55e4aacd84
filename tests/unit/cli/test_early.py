"""Errors evident from the command line are reported before torch is imported, for every command."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import ROOT

from onnxinfo.cli.early import _has_driver

MODEL = str(ROOT / "models" / "digits-cnn.onnx")
DIGITS = str(ROOT / "models" / "digits.npz")
NO_ARRAY = f"{DIGITS} has no array 'nope'; give {DIGITS}:KEY with KEY one of images, labels"
HEAVY = """
import sys
from onnxinfo.cli import main
try:
    main()
finally:
    print([name for name in ("torch", "onnx2torch", "torchvision") if name in sys.modules])
"""
CASES = {
    "no model": ("analyze missing.onnx --inputs x.npz -o a.h5", "'missing.onnx' does not exist, expected an ONNX file"),
    "a folder as model": ("check .", "'.' is a folder, expected an ONNX file"),
    "no array file": ("analyze MODEL --inputs missing.npz:x -o a.h5", "no such file or folder: missing.npz"),
    "no array of samples": ("analyze MODEL --inputs DIGITS:nope -o a.h5", NO_ARRAY),
    "no array of labels": ("doctor MODEL --inputs DIGITS:images --labels DIGITS:nope", NO_ARRAY),
    "no array of foregrounds": ("analyze MODEL --inputs DIGITS:images --foreground DIGITS:nope -o a.h5", NO_ARRAY),
    "no array for decoders": ("analyze MODEL --inputs DIGITS:images --decoder-inputs DIGITS:nope -o a.h5", NO_ARRAY),
    "no folder": ("robustness MODEL --inputs missing -o a.h5", "no such file or folder: missing"),
    "no samples, of a group": ("decoder train MODEL --inputs missing -o out", "no such file or folder: missing"),
    "no device": ("analyze MODEL --inputs MODEL -o a.h5 --device gpu", "'gpu'; give auto, cpu, cuda or cuda:N"),
    "no driver": (
        "analyze MODEL --inputs MODEL -o a.h5 --device cuda:1",
        "device 'cuda:1' was asked for, but there is no driver for CUDA devices; use cpu",
    ),
    "no folder of the archive": ("analyze MODEL --inputs MODEL -o nowhere/a.h5", "nowhere' does not exist; create it"),
    "no metric": (
        "analyze MODEL --inputs MODEL -o a.h5 --metric sidd",
        "no metric 'sidd' in onnxinfo; did you mean 'sid'",
    ),
    "no engine": ("coherency MODEL --inputs MODEL -o a.h5 --engine dask", "no engine 'dask' in onnxinfo; there is"),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_come_before_torch(case, tmp_path):
    if case == "no driver" and _has_driver():
        pytest.skip("this machine has a driver")
    line, expected = CASES[case]
    words = [word.replace("MODEL", MODEL).replace("DIGITS", DIGITS) for word in line.split()]
    arguments = [sys.executable, "-c", HEAVY, *words]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert expected in done.stderr
    assert done.stdout == "[]\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", ["a/b=x.npz,c=y.npz", "missing*.png", MODEL, f"{DIGITS}:images"])
def test_what_may_be_there_is_left_to_those_who_open_it(spec):
    from onnxinfo.inputs.opening import check_present

    check_present(spec)


def test_only_npz_files_are_looked_into(tmp_path):
    from onnxinfo.inputs.opening import check_array

    (tmp_path / "a.csv").write_text("column\n1\n")
    check_array(f"{tmp_path / 'a.csv'}:column")
