"""A griffe extension for the reference: it lists onnxinfo's public names, and renders docstrings as Markdown."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

#: Roles such as ``:func:`~onnxinfo.load```.
_ROLE = re.compile(r":(?:py:)?(?:func|meth|class|mod|data|attr|exc):`~?([\w.]+)`")
#: A numpydoc entry with several names and an indented description.
_SHARED = re.compile(r"^(\w+(?:, \w+)+)\n((?:(?:    .*)?\n)*    .*)", re.MULTILINE)


class PublicNames(griffe.Extension):
    """Lists names that are imported on first use, which static analysis does not find."""

    def __init__(self) -> None:
        self._public: set[str] = set()

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Add an alias for each public name, then rewrite all docstrings of the package."""
        if pkg.name != "onnxinfo":
            return
        for name, module in ast.literal_eval(str(pkg["_LAZY"].value)).items():
            pkg.set_member(name, griffe.Alias(name, f"onnxinfo.{module}.{name}"))
        self._public = {name for name, member in pkg.members.items() if member.is_alias}
        self._rewrite(pkg)

    def _rewrite(self, found: griffe.Object) -> None:
        if found.docstring:
            found.docstring.value = _SHARED.sub(_one_by_one, _ROLE.sub(self._link, found.docstring.value))
        for member in found.members.values():
            if not member.is_alias:
                self._rewrite(member)

    def _link(self, role: re.Match[str]) -> str:
        name = role[1].removeprefix("onnxinfo.").lstrip(".")
        return f"[`{name}`][onnxinfo.{name}]" if name in self._public else f"`{name}`"


def _one_by_one(entry: re.Match[str]) -> str:
    """Repeat the description of a shared entry: griffe gives all its names the type of the first."""
    return "\n".join(f"{name}\n{entry[2]}" for name in entry[1].split(", "))
