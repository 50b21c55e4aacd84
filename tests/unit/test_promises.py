"""Every test that SECURITY.md and the docs name as a proof exists, and every promise has one."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from places import ROOT

PAGES = ["SECURITY.md", "docs/scaling.md"]
HEADERS = ("promise", "what differs between two runs")


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named(page: str) -> list[tuple[str, str]]:
    """Tests with their files; a name without a file is in the one named last."""
    found, file = [], ""
    for token in re.findall(r"`([^`\s]+)`", (ROOT / page).read_text()):
        path, _, test = token.partition("::")
        if re.fullmatch(r"tests/[\w/]+\.py", path):
            file, token = path, test
        if token.startswith("test_"):
            found.append((file, token))
    return found


def rows(page: str) -> list[list[str]]:
    """Rows of the tables of promises: cells of each."""
    found, inside = [], False
    for line in (ROOT / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        inside = bool(cells) and (inside or cells[0] in HEADERS)
        if inside and cells[0] not in HEADERS and set(line) - set("|-: "):
            found.append(cells)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_named_test_exists(page: str) -> None:
    tests = named(page)
    assert len(tests) >= len(rows(page))
    assert [(file, test) for file, test in tests if test not in functions(file)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_names_a_test(page: str) -> None:
    assert len(rows(page)) > 5
    assert [cells[0] for cells in rows(page) if "`test_" not in cells[-1] and "::test_" not in cells[-1]] == []
