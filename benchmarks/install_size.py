"""Print what onnxinfo and the packages that it needs occupy in the present environment, extras not included.

python benchmarks/install_size.py
"""

from __future__ import annotations

import re
from collections import Counter
from importlib import metadata

from packaging.requirements import Requirement

from onnxinfo.models.studies.script import as_script


def closure(name: str) -> set[str]:
    """Return the installed distributions that one needs, itself included, by normalized name."""
    found, pending = set[tuple[str, str]](), [(name, "")]
    while pending:
        each, extra = pending.pop()
        each = re.sub(r"[-_.]+", "-", each).lower()
        if (each, extra) in found:
            continue
        try:
            required = metadata.requires(each) or []
        except metadata.PackageNotFoundError:
            # A user may have replaced the ONNX Runtime for GPUs.
            pending += [("onnxruntime", "")] if each == "onnxruntime-gpu" else []
            continue
        found.add((each, extra))
        for line in required:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pending += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return {each for each, _ in found}


def size(name: str) -> int:
    """Return the size of a distribution's files, in bytes."""
    files = metadata.files(name) or []
    return sum(path.stat().st_size for path in {file.locate().resolve() for file in files} if path.exists())


def main() -> None:
    """Print the sizes of the largest packages, and of all."""
    sizes = Counter({name: size(name) for name in closure("onnxinfo")})
    nvidia = sum(count for name, count in sizes.items() if name.startswith(("nvidia", "cuda")))
    for name, count in sizes.most_common(12):
        print(f"{name:30} {count / 1e6:8.0f} MB")
    print(f"{'CUDA libraries':30} {nvidia / 1e6:8.0f} MB")
    print(f"{'all ' + str(len(sizes)) + ' packages':30} {sizes.total() / 1e6:8.0f} MB")


if __name__ == "__main__":
    as_script(main)
