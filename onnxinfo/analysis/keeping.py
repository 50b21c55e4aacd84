"""Keep the unfinished work of a run beside its archive: solvers in progress, and linearizations."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..archive.format import RunSchema
from ..archive.unfinished import Item, Unfinished
from ..metrics import journal
from ..metrics.journal import Journal, Record, by_place
from ..metrics.linearization import Linearization
from ..replacing import resolve
from .job import Job
from .linearization_store import LinearizationStore

#: Seconds of work on linearizations that may be lost, beside what the layer in progress loses.
LINEARIZATION_SECONDS = 5.0
#: Entries of the provenance that the last digits depend on.
_EXACT = ("device", "threads", "batching", "onnxinfo", "torch", "onnxruntime")


def unfinished_work(output: Path, run: str, schema: RunSchema, job: Job) -> Unfinished:
    """Unfinished work of a run, identified by everything that its numbers depend on."""
    depends = [
        schema.recipe,
        {name: schema.provenance.get(name) for name in _EXACT},
        [layer.name for layer in job.layers],
        job.shape,
        job.batch_size,
        job.precision,
    ]
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()
    return Unfinished.beside(resolve(output), run, digest)


def journal_of(unfinished: Unfinished | None, name: str) -> Journal:
    """Journal of a task, with what an interrupted process has saved under its name."""
    if unfinished is None:
        return Journal()
    records = [_record(item) for item in unfinished.items(name)]
    return Journal(dict(by_place(records)), lambda fresh: unfinished.save(name, [_item(each) for each in fresh]))


def _item(record: Record) -> Item:
    described = {
        "place": record.place,
        "done": record.done,
        "total": record.total,
        "size": record.size,
        "is_finished": record.is_finished,
        "n_vjps": record.n_vjps,
        "streams": len(record.streams),
    }
    tensors = [record.check, *record.streams, *record.tensors]
    return Item(described, [each.detach().cpu().numpy() for each in tensors])


def _record(item: Item) -> Record:
    described = dict(item.described)
    streams = 1 + int(described.pop("streams"))
    check, *rest = map(torch.from_numpy, item.arrays)
    described["place"] = tuple(described["place"])
    return Record(check=check, streams=rest[: streams - 1], tensors=rest[streams - 1 :], **described)


class KeptLinearizations:
    """Linearizations of blocks of samples, saved as time passes.

    Parameters
    ----------
    unfinished
        Where they are saved.
    store
        Where they are held in this process.
    layers
        Number of layers.
    """

    def __init__(self, unfinished: Unfinished, store: LinearizationStore, layers: int) -> None:
        self._unfinished, self._store, self._layers = unfinished, store, layers
        self._unsaved: list[tuple[Sequence[int], str]] = []
        self._saved = time.monotonic()

    def restored(self, block: Sequence[int]) -> bool:
        """Put a block that was saved earlier into the store; return whether there was one."""
        found: dict[int, Linearization] = {}
        for item in self._unfinished.items(_name(block)):
            norms, normalizer, stderr = map(torch.from_numpy, item.arrays)
            found[item.described["layer"]] = Linearization(norms, normalizer, stderr, item.described["probes"])
        if sorted(found) != list(range(self._layers)):
            self._unfinished.discard(_name(block))
            return False
        self._store.put(block, [found[layer] for layer in range(self._layers)])
        return True

    def add(self, block: Sequence[int], task: str) -> None:
        """Note that a block is in the store, and save it if it is time; `task` is the name of its unfinished work."""
        self._unsaved.append((block, task))
        if time.monotonic() - self._saved >= journal.SAVE_SECONDS:
            self._save()

    def close(self) -> None:
        """Save the rest, unless it took little time."""
        if self._unsaved and time.monotonic() - self._saved >= LINEARIZATION_SECONDS:
            self._save()

    def _save(self) -> None:
        for block, task in self._unsaved:
            for layer in range(self._layers):
                found = self._store.of(layer, block)
                arrays = [each.numpy() for each in (found.column_norms, found.normalizer, found.normalizer_stderr)]
                if not self._unfinished.save(_name(block), [Item({"layer": layer, "probes": found.probes}, arrays)]):
                    break
            self._unfinished.discard(task)
        self._unsaved, self._saved = [], time.monotonic()


def _name(block: Sequence[int]) -> str:
    return f"linearized-{block[0]}-{len(block)}"
