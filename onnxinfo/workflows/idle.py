"""Settings that would do nothing, given the samples, metrics and other settings: they are refused, not ignored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config, Entry, FromFile, entries, refuse_idle, value_of
from ..errors import OnnxinfoError

Given = Mapping[str, Any]

# Metrics that are known to use neither decoders nor the settings of sensitivity, which those of other packages may do.
_OWN = frozenset(("sid", "concentration", "gradient", "gradcam", "cam", "robustness", "cka", "vinfo", "probe"))
_WITHOUT_DECODERS = _OWN | {"sensitivity"}
_WITHOUT_TARGET = _OWN | {"ru"}
# Functions and commands that use a foreground only to crop to it.
_CROPPING = frozenset(("leakage", "sensitivity", "bits", "channels", "similarity"))


@dataclass(frozen=True)
class _Rule:
    """Settings without effect.

    Attributes
    ----------
    idle
        Their flat names, or tables of the configuration file.
    holds
        Tells, from the command's name and what it is given, whether they certainly have none.
    when, remedy
        As for :func:`onnxinfo.config.refuse_idle`.
    """

    idle: tuple[str, ...]
    holds: Callable[[str, Given], bool]
    when: str
    remedy: str = ""

    @property
    def settings(self) -> list[Entry]:
        """The settings."""
        return [each for each in entries() if {each.setting.flat, each.section} & {*self.idle}]


def refuse_idle_keywords(command: str, flat: Given, config: Config, **more: Any) -> None:
    """Refuse keywords of a function that certainly have no effect; their defaults and configuration objects do no harm.

    Parameters
    ----------
    command
        Name of the command that the function is behind.
    flat
        Settings that were given, by flat name.
    config
        All settings.
    **more
        Other arguments that matter: ``inputs``, ``output``, ``accuracy``, ``attack``.

    Raises
    ------
    UsageError
        One of them was given.
    """
    known = {each.setting.flat: each for each in entries()}
    names = {each.setting.former: name for name, each in known.items() if each.setting.former}
    typed = [names.get(name, name) for name in flat if not isinstance(name, FromFile)]
    typed = [name for name in typed if name in known and not is_default(known[name], value_of(config, known[name]))]
    if typed:
        given = {name: value_of(config, each) for name, each in known.items()} | more
        refuse_idle_settings(command, typed, given)


def refuse_idle_settings(command: str, names: Iterable[str], given: Given) -> None:
    """Refuse some settings that certainly have no effect.

    Parameters
    ----------
    command
        Name of the command.
    names
        Flat names of the settings.
    given
        Values of all of the command's parameters by name.

    Raises
    ------
    UsageError
        One of them has no effect.
    """
    names = [*names]
    for rule in _RULES:
        own = {each.setting.flat for each in rule.settings}
        if not own.isdisjoint(names) and rule.holds(command, given):
            refuse_idle(names, rule.idle, rule.when, rule.remedy)


def idle_settings(command: str, given: Given) -> list[Entry]:
    """Return the settings that certainly have no effect; see :func:`refuse_idle_settings`."""
    return [each for rule in _RULES if rule.holds(command, given) for each in rule.settings]


def is_default(entry: Entry, value: Any) -> bool:
    """Whether a setting has its default value."""
    return value is entry.default or (type(value) is type(entry.default) and bool(np.all(value == entry.default)))


def _shuffles_nothing(command: str, given: Given) -> bool:
    if not given.get("shuffle") or given.get("limit") is not None:
        return False
    # Training samples of decoders are chosen likewise.
    return given.get("decoder_limit") is None or not (given.get("attack") or _trains(command, given))


def _trains(command: str, given: Given) -> bool:
    return "metrics" in given and not _trains_nothing(command, given)


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


def _are_plain(inputs: Any) -> bool:
    """Whether samples are only arrays and images: no texts, recordings or tables."""
    from ..inputs.sample_sets import parse_inputs

    if isinstance(inputs, str):
        inputs = parse_inputs(inputs)
    if isinstance(inputs, Mapping):
        return all(map(_is_plain, inputs.values()))
    return _is_plain(inputs)


def _is_plain(spec: Any) -> bool:
    from ..inputs.arrays import format_of, names_array, split_key
    from ..inputs.images import find_files
    from ..registry import READERS

    if isinstance(spec, np.ndarray):
        return spec.dtype.kind in "fiub"
    if not isinstance(spec, str):
        return False
    split = split_key(spec)
    if split is not None and names_array(spec):
        return format_of(split[0]) is None
    suffixes = [f".{name}" for name in READERS.names() if format_of(Path(f"a.{name}")) is not None]
    return not find_files(spec, suffixes).paths


def _trains_nothing(command: str, given: Given) -> bool:
    return given.get("decoders") is None and _lacks(_WITHOUT_DECODERS, command, given)


def _has_no_target(command: str, given: Given) -> bool:
    return _lacks(_WITHOUT_TARGET, command, given)


def _lacks(others: frozenset[str], command: str, given: Given) -> bool:
    """Whether an analysis has some metrics only, and a run that it may extend, too."""
    if command in _CROPPING or "metrics" not in given or given.get("output") is None:
        return False
    return {*given["metrics"]} <= others and not _has_more(_archive(command, given), others)


def _archive(command: str, given: Given) -> str:
    if command == "oneshot":
        return os.path.join(given["output"], f"{Path(given['model']).stem}.h5")
    return str(given["output"])


def _has_more(archive: str, others: frozenset[str]) -> bool:
    """Whether a run of an archive, which may be extended, has metrics beside some."""
    if not os.path.exists(archive):
        return False
    from ..archive.reading import open as open_archive

    try:
        with open_archive(archive) as found:
            return any({metric.name for metric in run.metrics} - others for run in found.values())
    except OnnxinfoError:
        # The command itself says why.
        return True


_RULES = (
    _Rule(("shuffle",), _shuffles_nothing, "without limit=...", "give that"),
    _Rule(("shuffle_seed",), lambda _, given: not given.get("shuffle"), "without shuffle=True", "give that"),
    _Rule(("foreground",), _crops_nothing, "without crop_to_box=...", "give that"),
    _Rule(("labels",), _uses_no_labels, "where no accuracy is measured"),
    _Rule(("tokenizer", "rate", "fit_length"), _reads_plain, "on arrays and images"),
    _Rule(("ru", "ru.decoder"), _trains_nothing, "without the metric ru", "give metrics='ru'"),
    _Rule(("sensitivity",), _has_no_target, "without the metric sensitivity", "give metrics='sensitivity'"),
)
