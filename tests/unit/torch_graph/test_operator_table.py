"""Functions of the operator table: annotations are understood in any notation, or refused."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from onnxinfo.torch_graph.operators import table

FUTURE = "from __future__ import annotations\n"
IMPORTS = (
    "from onnxinfo.torch_graph.operators.table import Either, Floats, Ints, Sizes, Unsupported, Values, operator\n"
)


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that executes a module's source and returns its function ``Op``; the table is restored."""
    monkeypatch.setattr(table, "TABLE", {key: [*rows] for key, rows in table.TABLE.items()})

    def run(source: str) -> Any:
        module = types.ModuleType("operators_of_a_test")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(source, "operators_of_a_test.py", "exec", dont_inherit=True), vars(module))
        return module.Op

    return run


@pytest.mark.parametrize("head", [FUTURE + IMPORTS, IMPORTS])
def test_annotations_count_with_and_without_the_future_import(head: str, define: Any) -> None:
    inputs = "X: Values, axes: Ints = None, scales: Floats = None, sizes: Sizes = None, indices: Either = None"
    function = define(f"{head}@operator()\ndef Op({inputs}, *, mode: Unsupported = 0): ...")
    assert table._expectations(function, 5) == ({1, 2}, {3, 4}, {0, 1, 2, 3}, None)
    assert table._expectations(function, 2) == ({1}, set(), {0, 1}, None)
    with pytest.raises(NotImplementedError, match="'mode' is not supported"):
        table._check_call(function, ("x",), {"mode": 1})


@pytest.mark.parametrize("head", [FUTURE + IMPORTS, IMPORTS])
@pytest.mark.parametrize("annotation", ["list[int]", "int | None", "'Int'", "'Unsuported'"])
def test_other_annotations_are_refused_when_the_function_is_defined(head: str, annotation: str, define: Any) -> None:
    with pytest.raises(
        TypeError,
        match=r"operator function .*Op: .*annotate parameters with Ints, Floats, Sizes, Either, Values, Unsupported",
    ):
        define(f"{head}@operator()\ndef Op(X, axes: {annotation} = None): ...")
