"""Write the locks of the image: every package that it installs, with its version and the hashes of its wheels.

``python docker/lock.py onnxinfo.whl [PIP OPTION...]`` writes ``docker/requirements-cuda.lock`` and
``docker/requirements-cpu.lock`` for Python 3.11 to 3.13 on Linux with x86-64. Versions are those of
``constraints.txt``; pip reports the hashes, and downloads no wheels where the index serves their metadata.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
EXTRAS: list[str] = []
# The constraints pin the runtime for machines with a GPU only; both are released together.
RUNTIME = "onnxruntime"


def found_by_pip(pinned: list[str], python: str, options: list[str]) -> dict[str, Any]:
    """Return pip's report on packages, given with their versions, by canonical name."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps"]
        command += ["--report", str(report), "--target", name]
        command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
        command += [f"--platform={each}" for each in PLATFORMS]
        subprocess.run([*command, *options, *pinned], check=True)
        installed = json.loads(report.read_text())["install"]
    return {canonicalize_name(each["metadata"]["name"]): each for each in installed}


def closure(requirements: list[str], pins: dict[str, str], python: str, options: list[str]) -> dict[str, Any]:
    """Return pip's report on the packages and everything that they require, also with the extras that they name."""
    target = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    environment = default_environment() | target | {"python_version": python, "python_full_version": f"{python}.0"}
    extras: dict[str, set[str]] = {}
    found: dict[str, Any] = {}
    pending = [Requirement(line) for line in requirements]
    while pending:
        fresh = set()
        for requirement in pending:
            name = canonicalize_name(requirement.name)
            if not {"", *requirement.extras} <= extras.setdefault(name, set()):
                extras[name] |= {"", *requirement.extras}
                fresh.add(name)
        new = sorted(fresh - set(found))
        if new:
            found |= found_by_pip([f"{name}=={pins[name]}" for name in new], python, options)
        pending = [
            requirement
            for name in sorted(fresh)
            for requirement in map(Requirement, found[name]["metadata"].get("requires_dist", ()))
            if requirement.marker is None
            or any(requirement.marker.evaluate(environment | {"extra": extra}) for extra in extras[name])
        ]
    return found


def locked(requirements: list[str], pins: dict[str, str], options: list[str]) -> list[str]:
    """Return the lines of a lock that serves all versions of Python."""
    hashes: dict[str, set[str]] = {}
    for python in PYTHONS:
        for name, each in closure(requirements, pins, python, options).items():
            hashes.setdefault(name, set()).add(each["download_info"]["archive_info"]["hashes"]["sha256"])
    return [
        " \\\n    ".join([f"{name}=={pins[name]}", *(f"--hash=sha256:{digest}" for digest in sorted(hashes[name]))])
        for name in sorted(hashes)
    ]


def main(wheel: str, *options: str) -> None:
    """Write both locks."""
    requirements = runpy.run_path(str(FOLDER / "requirements.py"))["requirements"]
    lines = (FOLDER.parent / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    pins[RUNTIME] = pins[f"{RUNTIME}-gpu"]
    for variant in ("cuda", "cpu"):
        wanted = requirements(wheel, EXTRAS, cpu=variant == "cpu")
        wanted = [line for line in wanted if (marker := Requirement(line).marker) is None or marker.evaluate()]
        (FOLDER / f"requirements-{variant}.lock").write_text("\n".join(locked(wanted, pins, [*options])) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
