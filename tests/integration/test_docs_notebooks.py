"""The notebook of docs/notebooks.md runs in Jupyter, and shows tables and pictures."""

import re
import shutil

import pytest
from places import DOCS

from onnxinfo.models import path as bundled

CELLS = re.findall(r"```python\n(.*?)```", (DOCS / "notebooks.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("digits-cnn.onnx", "digits.npz"):
        shutil.copy(bundled(name), tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    shown = {cell.source.strip().splitlines()[-1]: cell.outputs for cell in notebook.cells}
    *_, named = shown["result"]
    assert named.data["text/plain"] == "Result(archive=PosixPath('result.h5'), run='digits-cnn')"
    assert "<th>status</th><td>complete</td>" in named.data["text/html"]
    bars = [output.data["text/plain"] for cell in notebook.cells[1:3] for output in cell.outputs if "data" in output]
    assert any(text.startswith("sid: 8 of 8, ") for text in bars)
    (sentences,) = shown["run.summary()"]
    assert "<li>Run digits-cnn: sid of 2 layers on 6 samples.</li>" in sentences.data["text/html"]
    (summary,) = shown["print(run)"]
    assert "accuracy: 1 on 6 labeled samples" in summary.text
    for last in ("run.to_dataframe()", 'data.sid.mean("sample")'):
        assert "text/html" in shown[last][0].data
    pictures = [output for outputs in shown.values() for output in outputs if "image/png" in output.get("data", {})]
    # The curve, the notebook's own figure, and the map.
    assert len(pictures) == 3
    assert all(len(output.data["image/png"]) > 5000 for output in pictures)


def test_every_cell_is_python():
    assert len(CELLS) >= 8
    for cell in CELLS:
        compile(cell, "docs/notebooks.md", "exec")
