"""Trained decoders on disk: weights as safetensors, with a description in JSON."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import InputError, UnknownLayerError
from ..kinds import JSON, SAFETENSORS
from ..outputs import Output, claim
from ..text import printable
from .decoder import Decoder, Plan
from .decoder_folding import folded
from .decoder_training import DecoderSettings, Trained

FORMAT, VERSION = "onnxinfo-decoder", 1
#: Upper limit for a description's size.
MAX_JSON_BYTES = 1 << 16
_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class DecoderKey:
    """Identity of a decoder: one with the same key can be reused.

    Attributes
    ----------
    model_sha256
        Digest of the model.
    tensor, perturbed
        Names of the layer and of the analysis input.
    samples_sha256
        Digest of the preprocessed training samples.
    settings
        Training settings.
    plan
        Shapes and size.
    unit_mask_sha256
        Digest of the mask of counted units; empty if all count.
    """

    model_sha256: str
    tensor: str
    perturbed: str
    samples_sha256: str
    settings: DecoderSettings
    plan: Plan
    unit_mask_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the key as JSON-compatible values; without a unit mask, it equals the key of older versions."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found if self.unit_mask_sha256 else {k: v for k, v in found.items() if k != "unit_mask_sha256"}

    @property
    def stem(self) -> str:
        """Base name of the decoder's files."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()
        readable = "".join(c if c.isascii() and c.isalnum() else "-" for c in self.tensor).strip("-")[:40]
        return f"{readable or 'layer'}-{digest[:16]}"


@dataclass(frozen=True)
class StoredDecoder:
    """Description of a decoder found in a folder."""

    path: Path
    model_sha256: str
    tensor: str
    width: int
    error: float
    steps: int


def claim_decoder(folder: str | os.PathLike[str], key: DecoderKey) -> tuple[Output, Output]:
    """Check that a decoder's files, weights and description, may be written to an existing folder.

    Raises
    ------
    UsageError
        Files of these names exist and are not those of a decoder.
    InputError
        The folder is write-protected.
    """
    weights, description = (Path(folder, f"{key.stem}.{ending}") for ending in ("safetensors", "json"))
    return claim(weights, SAFETENSORS, failure=InputError), claim(description, JSON, failure=InputError)


def save_decoder(folder: str | os.PathLike[str], key: DecoderKey, trained: Trained) -> Path:
    """Write a decoder; return the path of its description.

    Raises
    ------
    UsageError
        See :func:`claim_decoder`.
    InputError
        The folder cannot be written.
    """
    text = json.dumps(
        {"format": FORMAT, "format_version": VERSION, "error": trained.error, "steps": trained.steps, **key.to_dict()},
        indent=1,
    )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        weights, description = claim_decoder(folder, key)
        with weights.writing() as part:
            save_file({name: tensor.cpu().contiguous() for name, tensor in trained.decoder.state_dict().items()}, part)
        # The description is written last: a decoder without one does not exist.
        with description.writing() as part:
            part.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write decoders to {printable(str(folder))} ({error}); name a writable folder"
        ) from error
    return description.path


def load_decoder(folder: str | os.PathLike[str], key: DecoderKey) -> Trained | None:
    """Read the decoder with a key, folded for evaluation; return None if there is none.

    Raises
    ------
    InputError
        The files under that name are damaged, or belong to another model or layer.
    """
    description = Path(folder) / f"{key.stem}.json"
    if not description.is_file():
        return None
    found = _read_description(description)
    different = [name for name, value in key.to_dict().items() if found.get(name) != value]
    if different:
        raise InputError(
            f"decoder {printable(str(description))} is for another {different[0]}; delete it or name another folder"
        )
    decoder = Decoder(key.plan)
    weights = description.with_suffix(".safetensors")
    expected = sum(t.numel() * t.element_size() for t in decoder.state_dict().values())
    try:
        if not expected <= weights.stat().st_size <= expected + _HEADER_BYTES:
            raise InputError(f"decoder {printable(str(weights))} is not as large as it should be; delete it")
        decoder.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"decoder {printable(str(weights))} cannot be read ({printable(reason)}); delete it"
        ) from error
    return Trained(folded(decoder), float(found["error"]), int(found["steps"]))


def list_decoders(folder: str | os.PathLike[str]) -> list[StoredDecoder]:
    """Return the decoders in a folder, by layer.

    Raises
    ------
    InputError
        The folder is missing, or a description is damaged.

    Examples
    --------
    >>> [(decoder.tensor, decoder.path.suffix) for decoder in onnxinfo.list_decoders("decoders")]
    [('relu', '.json')]
    """
    if not Path(folder).is_dir():
        raise InputError(f"{printable(str(folder))} is not a folder; train decoders first")
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        found = _read_description(path)
        try:
            rows.append(
                StoredDecoder(
                    path,
                    str(found["model_sha256"]),
                    str(found["tensor"]),
                    int(found["plan"]["width"]),
                    float(found["error"]),
                    int(found["steps"]),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"decoder {printable(str(path))} lacks or garbles {error}; delete it") from error
    return rows


def describe_decoder(folder: str | os.PathLike[str], layer: str) -> str:
    """Return the full descriptions of a layer's decoders in a folder, as JSON.

    Raises
    ------
    InputError
        The folder is missing or damaged.
    UnknownLayerError
        The folder has no decoder of that layer.

    Examples
    --------
    >>> import json
    >>> [description] = json.loads(onnxinfo.describe_decoder("decoders", "relu"))
    >>> description["perturbed"], description["plan"]["width"]
    ('image', 8)
    """
    stored = list_decoders(folder)
    chosen = [each for each in stored if each.tensor == layer]
    if not chosen:
        near = difflib.get_close_matches(layer, [each.tensor for each in stored], n=3) or [e.tensor for e in stored[:5]]
        raise UnknownLayerError(
            printable(f"no decoder of layer '{layer}' in {folder}; there is {', '.join(near) or 'none'}")
        )
    return json.dumps([_read_description(each.path) for each in chosen], indent=1)


def _read_description(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        found = json.loads(data) if len(data) <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"decoder {printable(str(path))} cannot be read; delete it") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{printable(str(path))} describes no decoder; remove it from the folder")
    if found.get("format_version") != VERSION:
        version = printable(str(found.get("format_version"))[:40])
        raise InputError(f"decoder {printable(str(path))} has format version {version}; this onnxinfo reads {VERSION}")
    if (
        not isinstance(found.get("error"), float)
        or not math.isfinite(found["error"])
        or not isinstance(found.get("steps"), int)
    ):
        raise InputError(f"decoder {printable(str(path))} has no validation error; delete it")
    return found
