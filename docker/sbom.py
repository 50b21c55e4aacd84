"""Print a bill of materials (CycloneDX, JSON) of all packages installed for the interpreter that runs this."""

from __future__ import annotations

import json
import re
from importlib.metadata import Distribution, distributions
from typing import Any

ROOT = "onnxinfo"


def component(package: Distribution) -> dict[str, Any]:
    """Describe one package: name, version, package URL, and license if it states one."""
    name, version = _canonical(package.metadata["Name"]), package.version
    found: dict[str, Any] = {"type": "library", "bom-ref": name, "name": name, "version": version}
    found["purl"] = f"pkg:pypi/{name}@{version}"
    if expression := package.metadata.get("License-Expression"):
        found["licenses"] = [{"expression": expression}]
    return found


def bill(packages: list[Distribution]) -> dict[str, Any]:
    """Return the bill of materials of some packages, of which ``onnxinfo`` is the subject."""
    by_name = {_canonical(package.metadata["Name"]): package for package in packages}
    components = {name: component(by_name[name]) for name in sorted(by_name)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": components.pop(ROOT) | {"type": "application"}},
        "components": list(components.values()),
        "dependencies": [
            {"ref": name, "dependsOn": sorted(_required(by_name[name]) & set(by_name) - {name})}
            for name in sorted(by_name)
        ],
    }


def _required(package: Distribution) -> set[str]:
    return {_canonical(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in package.requires or ()}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print(json.dumps(bill([*distributions()]), indent=1))
