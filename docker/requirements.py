"""Print a wheel's requirements for ``pip install -r``; with ``--cpu``, with ONNX Runtime's CPU wheels.

``python docker/requirements.py onnxinfo.whl [--cpu] [EXTRA...]``
"""

from __future__ import annotations

import email
import re
import sys
import zipfile


def requirements(wheel: str, extras: list[str], *, cpu: bool) -> list[str]:
    """Return the requirement lines of a wheel and of some of its extras.

    Parameters
    ----------
    wheel
        Path of the wheel.
    extras
        Names of extras to install, too.
    cpu
        Whether to install for machines without a GPU.

    Returns
    -------
    list of str
        Requirements with the remaining environment markers.
    """
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [each for each in opened.namelist() if each.endswith(".dist-info/METADATA")]
        declared = email.message_from_bytes(opened.read(name)).get_all("Requires-Dist", [])
    lines = []
    for requirement in declared:
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", requirement)
        if extra is None:
            lines.append(requirement)
        elif extra[1] in extras:
            lines.append(requirement.split(";")[0].strip())
    if not cpu:
        return lines
    runtime = [line.split(";")[0].strip() for line in lines if re.match(r"onnxruntime(?!-gpu)", line)]
    return [line for line in lines if not line.startswith("onnxruntime")] + runtime


def main(arguments: list[str]) -> None:
    """Print the requirements for the given command line."""
    wheel, *rest = arguments
    print("\n".join(requirements(wheel, [each for each in rest if each != "--cpu"], cpu="--cpu" in rest)))


if __name__ == "__main__":
    main(sys.argv[1:])
