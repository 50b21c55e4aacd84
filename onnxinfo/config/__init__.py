"""Configuration of an analysis: the only place for defaults, validation and help texts.

One frozen dataclass per concern. Command-line options, environment variables, keys of the configuration file, the
table in docs/configuration.md and the archive's recipe are generated from the fields. A field has one flat name, which
is used by Python's keywords, the command line (``--flat-name``) and the environment (``ONNXINFO_FLAT_NAME``).
"""

from __future__ import annotations

from .combining import FromFile, configure, read_settings, refuse_idle, value_of
from .keywords import FlatOptions, InputOptions, Options, TrainingOptions
from .sections import (
    COHERENCY_METRICS,
    PARALLEL,
    PATTERNS,
    RESCALE_FACTOR,
    SECTIONS,
    Config,
    DecoderConfig,
    ExecutionConfig,
    InputConfig,
    OutputConfig,
    RuConfig,
    SelectionConfig,
    SensitivityConfig,
    SidConfig,
    as_setting,
    entries,
    former_names,
    recorded_flags,
    unrecorded,
)
from .settings import Entry, Setting, recipe

__all__ = [
    "COHERENCY_METRICS",
    "PARALLEL",
    "PATTERNS",
    "RESCALE_FACTOR",
    "SECTIONS",
    "Config",
    "DecoderConfig",
    "Entry",
    "ExecutionConfig",
    "FlatOptions",
    "FromFile",
    "InputConfig",
    "InputOptions",
    "Options",
    "OutputConfig",
    "RuConfig",
    "SelectionConfig",
    "SensitivityConfig",
    "Setting",
    "SidConfig",
    "TrainingOptions",
    "as_setting",
    "configure",
    "entries",
    "former_names",
    "read_settings",
    "recipe",
    "recorded_flags",
    "refuse_idle",
    "unrecorded",
    "value_of",
]
