"""A contract for import-linter: no import cycles."""

from __future__ import annotations

from collections.abc import Iterator

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


class NoCircles(Contract):
    """Contract that reports import cycles, wherever in a module the imports are."""

    type_name = "no_circles"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find the cycles."""
        found = [*circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})]
        return ContractCheck(kept=not found, metadata={"circles": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the modules of each cycle on one line."""
        for circle in check.metadata["circles"]:
            output.print_error(", ".join(circle))


def circles(imports: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield the modules of each cycle (strongly connected component), sorted."""
    reached = {module: _reached(module, imports) for module in imports}
    seen: set[str] = set()
    for module in sorted(imports):
        if module in reached[module] and module not in seen:
            circle = sorted(each for each in reached[module] if module in reached[each])
            seen.update(circle)
            yield circle


def _reached(module: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = [*imports[module]]
    while pending:
        each = pending.pop()
        if each not in found:
            found.add(each)
            pending += imports.get(each, ())
    return found
