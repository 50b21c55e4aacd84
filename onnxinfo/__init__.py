"""Measure how much of its input each layer of a trained network discards.

The names below are the complete public interface. They are imported on first use, so ``import onnxinfo`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

from .errors import (
    ArchiveError,
    ConversionError,
    GateError,
    IncompleteError,
    InputError,
    ModelError,
    OnnxinfoError,
    ResourceError,
    UnprovenError,
    UsageError,
    VerificationError,
)
from .moved import forward

__version__ = "0.2.0"

# Public name -> module that defines it, in order of the data flow.
_LAZY = {
    "Model": "graph.model",
    "load": "graph.model",
    "save": "graph.model",
    "register_ort_library": "graph.engine",
    "Layer": "graph.layers",
    "list_layers": "graph.layers",
    "perturbed_tensors": "graph.perturbed",
    "select_layers": "graph.layers",
    "expose": "workflows.surgery",
    "extract": "workflows.surgery",
    "rescale": "graph.rescale",
    "prune": "graph.prune",
    "convert": "workflows.surgery",
    "Samples": "inputs.samples",
    "open_samples": "inputs.opening",
    "ModelCheck": "workflows.check",
    "check_model": "workflows.check",
    "SanityCard": "archive.sanity",
    "doctor": "workflows.doctor",
    "InputConfig": "config",
    "SidConfig": "config",
    "RuConfig": "config",
    "DecoderConfig": "config",
    "SensitivityConfig": "config",
    "ExecutionConfig": "config",
    "OutputConfig": "config",
    "Progress": "analysis.settings",
    "Result": "analysis.settings",
    "analyze": "workflows.analyze",
    "estimate": "workflows.estimate",
    "Estimate": "workflows.estimate",
    "CoherencyResult": "workflows.coherency",
    "coherency": "workflows.coherency",
    "RobustnessResult": "workflows.robustness",
    "robustness": "workflows.robustness",
    "similarity": "workflows.similarity",
    "sweep": "workflows.sweep",
    "SweepResult": "workflows.sweep",
    "sensitivity": "workflows.sensitivity",
    "Sensitivity": "workflows.sensitivity",
    "recommend_bits": "workflows.recommend",
    "BitPlan": "workflows.recommend",
    "recommend_channels": "workflows.recommend_channels",
    "ChannelPlan": "workflows.recommend_channels",
    "prune_channels": "workflows.prune_channels",
    "leakage": "workflows.leakage",
    "Leakage": "workflows.leakage",
    "train_decoder": "workflows.decoders",
    "list_decoders": "metrics.decoder_store",
    "describe_decoder": "metrics.decoder_store",
    "Archive": "archive.reading",
    "Run": "archive.reading",
    "open": "archive.reading",
    "list_runs": "archive.runs",
    "rename_run": "archive.runs",
    "delete_run": "archive.runs",
    "merge": "archive.runs",
    "recover": "archive.runs",
    "validate": "archive.validate",
    "export": "archive.export",
    "query": "views.query",
    "compare": "views.compare",
    "gate": "views.gate",
    "power": "views.power",
    "ranking": "views.ranking",
    "Verdict": "views.gate",
    "summary": "views.summary",
    "Summary": "archive.summary",
    "plot": "views.plotting",
    "plot_curve": "views.plotting",
    "plot_maps": "views.plotting",
    "report": "views.report",
    "annotate": "views.annotate",
    "node_data": "views.annotate",
    "OneshotResult": "workflows.pipeline",
    "oneshot": "workflows.pipeline",
    "DemoResult": "workflows.demo",
    "demo": "workflows.demo",
}

# Functions of an earlier release, which warn when they are called.
_FORMER = {"perturbed_tensor": "graph.perturbed"}
_find_former = forward(
    __name__,
    {
        "Check": "ModelCheck",
        "Coherency": "CoherencyResult",
        "Oneshot": "OneshotResult",
        "Robust": "RobustnessResult",
    },
)

__all__ = [
    "ArchiveError",
    "ConversionError",
    "GateError",
    "IncompleteError",
    "InputError",
    "ModelError",
    "OnnxinfoError",
    "ResourceError",
    "UnprovenError",
    "UsageError",
    "VerificationError",
    "__version__",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name) or _FORMER.get(name)
    if module is None:
        return _find_former(name)
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
