"""Compare two versions of onnxinfo: CPU time of a whole network by phase, in alternating runs on one core.

    python benchmarks/versions.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --limit 4 \\
        --other ../first-round --repeats 2

``--other`` is a folder with the other version's sources, such as a git worktree. Each version analyzes the same
layers in a process of its own with one thread. ``other layers`` are all but the last one; ``rest`` is start-up,
conversion, verification, the choice of a batching strategy, and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def counted(spent: dict[str, float], key: Callable[[Any], str], perform: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a task so that its CPU time is added up under a key."""

    def wrapped(task: Any, worker: Any) -> Any:
        began = time.process_time()
        try:
            return perform(task, worker)
        finally:
            spent[key(task)] = spent.get(key(task), 0.0) + time.process_time() - began

    return wrapped


def analyzed(model: str, inputs: str, preset: str | None, limit: int, layers: list[str]) -> dict[str, Any]:
    """CPU seconds of the phases of one analysis by whichever version is imported, its values and verdicts."""
    import onnxinfo
    from onnxinfo.analysis import tasks

    spent: dict[str, float] = {}
    # The class had another name in the first versions.
    linearize: Any = getattr(tasks, "Linearize", None) or vars(tasks)["Linearise"]
    linearize.perform = counted(spent, lambda _: "normalizers", linearize.perform)
    tasks.Measuring.perform = counted(spent, lambda task: str(task.layer), tasks.Measuring.perform)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        result = onnxinfo.analyze(model, inputs, Path(folder) / "out.h5", preset=preset, limit=limit, layers=layers)
        with onnxinfo.open(result.archive) as archive:
            run = archive[result.run]
            values, names = run.values("sid"), [layer.name for layer in run.layers]
    found = {name: values[name].tolist() for name in ("value", "probes", "converged")}
    return {"spent": spent, "layers": names, "total": time.process_time(), **found}


def by_phase(found: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of the normalizers, the last layer, the other layers and the rest."""
    spent, last = dict(found["spent"]), str(len(found["layers"]) - 1)
    phases = {"normalizers D": spent.pop("normalizers"), f"last layer ({found['layers'][-1]})": spent.pop(last)}
    phases["other layers"] = sum(spent.values())
    phases["network"] = sum(phases.values())
    phases["rest"] = found["total"] - phases["network"]
    return phases | {"total": found["total"]}


def measured(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Analyze in a new process with the version in a folder."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, *arguments, "--report"]
    environment = os.environ | one | {"PYTHONPATH": str(folder.resolve())}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--layers", nargs="*", default=[], help="names or patterns; default: the default layers")
    parser.add_argument("--other", type=Path, help="folder with the other version's sources")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="analyze once, and print the result as JSON")
    given = parser.parse_args()
    if given.report:
        print(json.dumps(analyzed(given.model, given.inputs, given.preset, given.limit, given.layers)))
        return
    versions = {"this": Path(__file__).parents[1], "other": given.other}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
    for _ in range(given.repeats):
        for name, folder in versions.items():
            runs[name].append(measured(folder, sys.argv[1:]))
    print(f"{given.limit} images, {given.repeats} runs\n")
    for name, found in runs.items():
        values, proven = (
            mean([mean([mean(row) for row in run[key]]) for run in found]) for key in ("value", "converged")
        )
        products = mean([mean(run["probes"][-1]) for run in found])
        print(
            f"{name}: mean H {values:.4f}, converged {proven:.1%}, products per cell of the last layer {products:.0f}"
        )
    phases = {name: [by_phase(run) for run in found] for name, found in runs.items()}
    print("\n| phase | other, CPU s | this, CPU s | ratio |\n| --- | ---: | ---: | ---: |")
    for phase in phases["this"][0]:
        this, other = (mean([run[phase] for run in phases[name]]) for name in ("this", "other"))
        print(f"| {phase} | {other:.1f} | {this:.1f} | {this / other:.2f} |")


if __name__ == "__main__":
    if "--report" in sys.argv:
        # The other version may be older than what follows.
        main()
    else:
        from onnxinfo.models.studies.script import as_script

        as_script(main)
