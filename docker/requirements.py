"""Requirements of a wheel and of some of its extras, for :mod:`lock`; optionally with ONNX Runtime's CPU wheels."""

from __future__ import annotations

import email
import re
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
