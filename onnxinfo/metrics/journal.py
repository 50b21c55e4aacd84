"""Record what the loops of a computation have accumulated, so that it can continue after an interruption.

A computation is repeated from its start, but each recorded loop takes its sums and the states of the random streams
from the record instead of computing them. Everything else is computed again. The result is therefore the same to the
last bit, and solvers need not know that they were interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

#: Seconds after which a computation is saved; what it did since is lost if the process is killed.
SAVE_SECONDS = 15.0
#: Size of unsaved records in bytes above which they are saved earlier, to bound the memory that they take.
MOST_UNSAVED_BYTES = 64 * 2**20

#: Position of a loop: its number among the loops of the enclosing step, after the position of that step.
Place = tuple[int, ...]


class Drawing(Protocol):
    """What draws random numbers in a loop, and counts vector-Jacobian products."""

    n_vjps: int

    @property
    def streams(self) -> Sequence[torch.Generator]:
        """The random streams."""


class State(Protocol):
    """What a loop changes."""

    def get(self) -> list[Tensor]:
        """Return the state."""

    def set(self, kept: Sequence[Tensor]) -> None:
        """Restore a state."""


@dataclass
class Streams:
    """Random streams without a counter of products."""

    streams: Sequence[torch.Generator]
    n_vjps: int = 0


@dataclass(frozen=True)
class Sums:
    """Tensors that a loop changes in place, and lists of tensors that it appends to.

    Attributes
    ----------
    totals
        Tensors of fixed shape.
    parts
        Lists of tensors that are concatenated along their first axis in the end.
    """

    totals: Sequence[Tensor] = ()
    parts: Sequence[list[Tensor]] = ()

    def get(self) -> list[Tensor]:
        """Return the totals, then each list as one tensor."""
        return [*self.totals, *(torch.cat(part) if part else torch.empty(0) for part in self.parts)]

    def set(self, kept: Sequence[Tensor]) -> None:
        """Restore the totals in place, and each list as a list of one tensor."""
        for total, before in zip(self.totals, kept, strict=False):
            total.copy_(before)
        for part, before in zip(self.parts, kept[len(self.totals) :], strict=True):
            part[:] = [before] if before.numel() else []


@dataclass(frozen=True)
class Record:
    """A loop after some of its steps.

    Attributes
    ----------
    place
        Its position.
    done, total, size
        Iterations done, their total number, and the number per step.
    is_finished
        Whether it has ended, by itself or early.
    n_vjps
        Number of vector-Jacobian products that it took.
    check
        Checksum of what it depends on.
    streams
        States of the random streams.
    tensors
        Its state.
    """

    place: Place
    done: int
    total: int
    size: int
    is_finished: bool
    n_vjps: int
    check: Tensor
    streams: Sequence[Tensor]
    tensors: Sequence[Tensor]

    @property
    def bytes(self) -> int:
        """Size of the record."""
        return sum(each.numel() * each.element_size() for each in (*self.tensors, *self.streams))


@dataclass
class _Step:
    """A step in progress: its position, and the number of loops in it so far."""

    place: Place = ()
    loops: int = 0

    def next(self) -> Place:
        self.loops += 1
        return (*self.place, self.loops - 1)


@dataclass
class Journal:
    """Records the loops of one computation; without `save`, nothing is recorded.

    Attributes
    ----------
    kept
        Records from an interrupted process.
    save
        Saves records; returns whether it succeeded. If not, nothing more is recorded.
    """

    kept: dict[Place, Record] = field(default_factory=dict)
    save: Callable[[Sequence[Record]], bool] | None = None
    _steps: list[_Step] = field(default_factory=lambda: [_Step()], init=False)
    _unsaved: dict[Place, Record] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _saved: float = field(default_factory=time.monotonic, init=False)

    def steps(
        self, total: int, size: int, state: State, drawing: Drawing, depends: Tensor | None = None
    ) -> Iterator[range]:
        """Iterate in steps, and record the state after each; a loop that is left early by ``break`` is finished.

        Parameters
        ----------
        total, size
            Number of iterations, and per step.
        state
            What the loop changes; restored before the first step.
        drawing
            What the loop draws from; restored as well.
        depends
            Tensor that the loop depends on. A record is used only if it is unchanged.

        Yields
        ------
        range
            The iterations of each step.
        """
        if not self._is_recording():
            for start in range(0, total, size):
                yield range(start, min(start + size, total))
            return
        place, before, check = self._steps[-1].next(), drawing.n_vjps, _checksum(depends)
        kept = self._recalled(place, total, size, check)
        done = 0
        if kept is not None:
            _restore(kept, state, drawing)
            done = kept.done
            if kept.is_finished:
                return
        left = False
        while done < total and not left:
            step = _Step((*place, done))
            self._steps.append(step)
            some = range(done, min(done + size, total))
            try:
                yield some
            except GeneratorExit:
                # By a break; after an error, nobody asks this journal for anything.
                left = True
            finally:
                self._steps.pop()
            done = some.stop
            if not self._is_recording():
                # A loop within this one could not be saved.
                continue
            self._forget(place)
            is_finished = left or done >= total
            if is_finished or step.loops or self._is_due():
                record = Record(
                    place, done, total, size, is_finished, drawing.n_vjps - before, check,
                    [stream.get_state() for stream in drawing.streams], state.get(),
                )  # fmt: skip
                self._put(record, is_final=left)

    def _is_recording(self) -> bool:
        return self.save is not None

    def _recalled(self, place: Place, total: int, size: int, check: Tensor) -> Record | None:
        """Return the record of a loop; if it does not fit, the rest of the record is of another computation."""
        kept = self.kept.get(place)
        if kept is None:
            return None
        if (kept.total, kept.size) == (total, size) and torch.equal(kept.check.cpu(), check.cpu()):
            return kept
        self.kept.clear()
        return None

    def _forget(self, place: Place) -> None:
        """Drop the records of loops within a finished step."""
        inner = [each for each in self._unsaved if each[: len(place)] == place]
        for each in inner:
            self._bytes -= self._unsaved.pop(each).bytes

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved >= SAVE_SECONDS

    def _put(self, record: Record, *, is_final: bool) -> None:
        self._unsaved[record.place] = record
        self._bytes += record.bytes
        if is_final or not (self._is_due() or self._bytes > MOST_UNSAVED_BYTES):
            return
        assert self.save is not None
        if not self.save(list(self._unsaved.values())):
            self.save = None
        self._unsaved, self._bytes, self._saved = {}, 0, time.monotonic()


def _checksum(depends: Tensor | None) -> Tensor:
    """Sum of a tensor's bits: exact and in any order."""
    if depends is None:
        return torch.zeros((), dtype=torch.int64)
    whole = depends.detach().contiguous()
    return whole.view(torch.int64 if whole.element_size() == 8 else torch.int32).sum()


def _restore(kept: Record, state: State, drawing: Drawing) -> None:
    streams = drawing.streams
    for stream, before in zip(streams, kept.streams, strict=True):
        stream.set_state(before)
    device = streams[0].device
    with torch.no_grad():
        # Torch's own allocation fixes the alignment.
        state.set([each.to(device).clone() for each in kept.tensors])
    drawing.n_vjps += kept.n_vjps


def by_place(records: Sequence[Record]) -> Mapping[Place, Record]:
    """Latest record of each loop."""
    return {record.place: record for record in records}
