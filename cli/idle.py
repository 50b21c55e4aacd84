"""Options that would do nothing for the samples, metrics and other options of a command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .settings import SettingOption, is_typed

Given = Mapping[str, Any]

# Metrics that are known not to use decoders, which those of other packages may do.
_WITHOUT_DECODERS = frozenset(
    ("sid", "concentration", "gradient", "gradcam", "cam", "robustness", "sensitivity", "cka", "vinfo", "probe")
)
# Commands that use a foreground only to crop to it.
_CROPPING = frozenset(("leakage", "sensitivity", "bits", "channels", "similarity"))


@dataclass(frozen=True)
class _Rule:
    """Settings without effect.

    Attributes
    ----------
    idle
        Their flat names, or tables of the configuration file.
    holds
        Tells, from the command's name and its options, whether they certainly have none.
    when, remedy
        As for :func:`onnxinfo.config.refuse_idle`.
    """

    idle: tuple[str, ...]
    holds: Callable[[str, Given], bool]
    when: str
    remedy: str = ""


def refuse_idle_options(given: Given) -> None:
    """Refuse options on the command line that certainly have no effect on the running command.

    Settings of a file or the environment, which serve other commands, are not refused.

    Parameters
    ----------
    given
        Values by name of the parameter.

    Raises
    ------
    UsageError
        One of them was given.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    typed = {
        each.entry.setting.flat: each.entry.section
        for each in context.command.params
        if isinstance(each, SettingOption) and each.name and is_typed(context, each.name)
    }
    for rule in _RULES:
        if not set(rule.idle).isdisjoint([*typed, *typed.values()]) and rule.holds(context.command.name or "", given):
            # Imported here because most command lines give none of these options.
            from onnxinfo.config import refuse_idle

            refuse_idle(typed, rule.idle, rule.when, rule.remedy)


def _crops_nothing(command: str, given: Given) -> bool:
    return command in _CROPPING and not _archives(command, given) and given.get("crop_to_box") is None


def _uses_no_labels(command: str, given: Given) -> bool:
    if command not in _CROPPING or _archives(command, given) or given.get("accuracy"):
        return False
    # A column of labels is no input.
    return given.get("inputs") is not None and _are_plain(given["inputs"])


def _archives(command: str, given: Given) -> bool:
    return command == "sensitivity" and given.get("output") is not None


def _reads_plain(_: str, given: Given) -> bool:
    return given.get("inputs") is not None and _are_plain(given["inputs"])


def _are_plain(inputs: str) -> bool:
    """Whether samples are only arrays and images: no texts, recordings or tables."""
    from onnxinfo.inputs.sample_sets import parse_inputs

    return all(_is_plain(each) for each in parse_inputs(inputs).values())


def _is_plain(spec: str) -> bool:
    from onnxinfo.inputs.arrays import format_of, names_array, split_key
    from onnxinfo.inputs.images import find_files
    from onnxinfo.registry import READERS

    split = split_key(spec)
    if split is not None and names_array(spec):
        return format_of(split[0]) is None
    suffixes = [f".{name}" for name in READERS.names() if format_of(Path(f"a.{name}")) is not None]
    return not find_files(spec, suffixes).paths


def _trains_nothing(command: str, given: Given) -> bool:
    if "metrics" not in given or given.get("decoders") is not None:
        return False
    return {*given["metrics"]} <= _WITHOUT_DECODERS and not _has_others(_archive(command, given))


def _archive(command: str, given: Given) -> str:
    if command == "oneshot":
        return os.path.join(given["output"], f"{Path(given['model']).stem}.h5")
    return str(given["output"])


def _has_others(archive: str) -> bool:
    """Whether a run of an archive, which may be extended, has metrics that may use decoders."""
    if not os.path.exists(archive):
        return False
    from onnxinfo import OnnxinfoError
    from onnxinfo import open as open_archive

    try:
        with open_archive(archive) as found:
            return any({metric.name for metric in run.metrics} - _WITHOUT_DECODERS for run in found.values())
    except OnnxinfoError:
        # The command itself says why.
        return True


_RULES = (
    _Rule(("shuffle_seed",), lambda _, given: not given.get("shuffle"), "without shuffle=True", "give that"),
    _Rule(("foreground",), _crops_nothing, "without crop_to_box=...", "give that"),
    _Rule(("labels",), _uses_no_labels, "where no accuracy is measured"),
    _Rule(("tokenizer", "rate", "fit_length"), _reads_plain, "on arrays and images"),
    _Rule(("ru", "ru.decoder"), _trains_nothing, "without the metric ru", "give metrics='ru'"),
)
