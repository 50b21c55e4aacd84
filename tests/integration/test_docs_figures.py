"""The commands of docs/figures.md draw the paper's figures, in a fresh folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import DOCS

PAGE = (DOCS / "figures.md").read_text(encoding="utf-8")
# A block of Python, or of commands for the shell.
BLOCK = re.compile(r"```python\n(.*?)```|((?:^ {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE)


def script():
    """Return the page's commands as a script for bash."""
    parts = [
        f"python - <<'END'\n{python}END\n" if python else re.sub("^ {4}", "", shell, flags=re.MULTILINE)
        for python, shell in BLOCK.findall(PAGE)
    ]
    return "".join(parts).replace("REPOSITORY", str(DOCS.parent))


def figures():
    return {Path(name).name for name in re.findall(r"-o (fig\S+\.pdf)", PAGE)}


def test_every_figure_has_a_command():
    assert {name[:4] for name in figures()} == {"fig1", "fig3", "fig4", "fig5"}
    assert script().count("\nonnxinfo plot ") == len(figures())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_commands_draw_the_figures(tmp_path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", script()], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in tmp_path.glob("*.pdf")} == figures()
    assert all(path.read_bytes().startswith(b"%PDF") for path in tmp_path.glob("*.pdf"))
