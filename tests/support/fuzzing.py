"""Damage files at random and on purpose, and watch their readers: time, memory and outcome.

Cases are numbered: the same number makes the same case.
"""

import faulthandler
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from processes import context

from onnxinfo.archive.storage import SUPERBLOCK_SIZE, lookup3

# Limits of a case; in CPU time, because the machine may be busy with something else.
CPU_SECONDS = 10
WALL_SECONDS = 300
MEMORY_BYTES = 2 << 30
# Limit of a worker's address space, so that a failing case does not bring down the machine.
CEILING_BYTES = 12 << 30

# File in a worker's folder to which it writes where it is.
_STACK = "stack.txt"

INTERESTING = [
    *(value.to_bytes(8, "little") for value in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)),
    *(value.to_bytes(4, "little") for value in (0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1)),
    *(value.to_bytes(4, "big") for value in (1, 2**16, 2**31 - 1, 2**32 - 1)),
    *(value.to_bytes(2, "little") for value in (0, 1, 255, 256, 2**15, 2**16 - 1)),
    *(bytes([value]) for value in (0, 1, 7, 127, 128, 255)),
]


def mutate(data: bytes, chance: random.Random, blocks: list[tuple[int, int]] = ()) -> bytes:
    """Return a damaged copy of `data`; damage prefers `blocks`, (start, end) of parts that a parser inspects."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        start, end = chance.choice(blocks) if blocks and chance.random() < 0.8 else (0, len(changed))
        start, end = min(start, max(0, len(changed) - 1)), min(end, len(changed))
        at = chance.randrange(start, max(end, start + 1))
        kind = chance.choice(["bit", "byte", "number", "number", "copy", "zero", "insert", "delete", "cut"])
        if kind == "bit" and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "byte":
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == "number":
            value = chance.choice(INTERESTING)
            changed[at : at + len(value)] = value
        elif kind == "copy":
            size, other = chance.choice([1, 4, 8, 64, 512]), chance.randrange(max(1, len(changed)))
            changed[at : at + size] = changed[other : other + size]
        elif kind == "zero":
            size = chance.choice([4, 16, 512, 4096])
            changed[at : at + size] = bytes(len(changed[at : at + size]))
        elif kind == "insert" and chance.random() < 0.3:
            changed[at:at] = chance.randbytes(chance.choice([1, 4, 100]))
        elif kind == "delete" and chance.random() < 0.3:
            del changed[at : at + chance.choice([1, 4, 100])]
        elif kind == "cut" and chance.random() < 0.3:
            del changed[at:]
    return bytes(changed)


@dataclass(frozen=True)
class Block:
    """HDF5 metadata that ends in a checksum, given without it."""

    start: int
    end: int


# Block size including the checksum by signature, if it is constant in files of this format.
_FIXED = {b"FRHP": 146, b"FAHD": 28, b"BTHD": 38}


def hdf5_blocks(data: bytes) -> list[Block]:
    """Return the metadata blocks of an HDF5 file that end in a valid checksum."""
    found = [Block(0, SUPERBLOCK_SIZE - 4)]
    at = data.find(b"OHDR")
    while at >= 0:
        found.append(Block(at, _header_end(data, at)))
        at = data.find(b"OHDR", at + 4)
    for signature, size in _FIXED.items():
        at = data.find(signature)
        while at >= 0:
            found.append(Block(at, at + size - 4))
            at = data.find(signature, at + 4)
    for signature in (b"OCHK", b"FADB", b"FHDB", b"BTLF", b"BTIN"):
        at = data.find(signature)
        while at >= 0:
            found += _by_trial(data, at)
            at = data.find(signature, at + 4)
    return [block for block in found if _holds(data, block)]


def _header_end(data: bytes, at: int) -> int:
    flags = data[at + 5]
    position = at + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
    width = 1 << (flags & 3)
    return position + width + int.from_bytes(data[position : position + width], "little")


def _by_trial(data: bytes, at: int) -> list[Block]:
    """The block that starts at `at`, at most 1,024 bytes long: its size follows from the matching checksum."""
    for end in range(at + 8, min(at + 1024, len(data) - 4)):
        if _holds(data, Block(at, end)):
            return [Block(at, end)]
    return []


def _holds(data: bytes, block: Block) -> bool:
    stored = data[block.end : block.end + 4]
    return len(stored) == 4 and lookup3(data[block.start : block.end]).to_bytes(4, "little") == stored


def seal(data: bytes, blocks: list[Block]) -> bytes:
    """Make the checksums of blocks valid again, as an attacker would."""
    sealed = bytearray(data)
    for block in blocks:
        if block.end + 4 <= len(sealed):
            sealed[block.end : block.end + 4] = lookup3(bytes(sealed[block.start : block.end])).to_bytes(4, "little")
    return bytes(sealed)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a case: its result, or what is wrong."""

    case: object
    said: str = ""
    failure: str = ""


@dataclass
class Watch:
    """Runs cases in a separate process, which is replaced if it is lost.

    Attributes
    ----------
    work
        Called with a case and a folder; returns a text, raises when the case shows a fault.
    cpu_seconds
        Processor time that a case may take.
    """

    work: object
    folder: Path
    cpu_seconds: float = CPU_SECONDS
    worst_seconds: float = 0.0
    worst_bytes: int = 0
    _process: object = field(default=None, init=False)
    _pipe: object = field(default=None, init=False)

    def run(self, case: object) -> Outcome:
        """Run one case; if it takes too much, again in a new process: the cause may be a busy machine."""
        outcome = self._run(case)
        if outcome.failure.startswith(("hangs", "took")):
            self.close()
            outcome = self._run(case)
        return outcome

    def _run(self, case: object) -> Outcome:
        if self._process is None:
            self._pipe, theirs = context().Pipe()
            self._process = context().Process(target=_serve, args=(theirs, self.work, self.folder), daemon=True)
            self._process.start()
            theirs.close()
            self._pipe.recv()
        began, before = time.monotonic(), self._cpu()
        self._pipe.send(case)
        while not self._pipe.poll(0.25):
            cpu, wall = self._cpu() - before, time.monotonic() - began
            if cpu > self.cpu_seconds or wall > WALL_SECONDS:
                stack = self._stack()
                self.close()
                return Outcome(case, failure=f"hangs: {cpu:.1f} s of CPU time in {wall:.0f} s\n{stack}")
        try:
            said, failure, taken = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            return Outcome(case, failure=f"the process ended with {code}")
        seconds = self._cpu() - before
        self.worst_seconds, self.worst_bytes = max(self.worst_seconds, seconds), max(self.worst_bytes, taken)
        if taken > MEMORY_BYTES:
            self.close()
            failure = failure or f"took {taken >> 20} MiB"
        if seconds > self.cpu_seconds:
            failure = failure or f"took {seconds:.1f} s"
        return Outcome(case, said, failure)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _stack(self) -> str:
        """Ask the process where it is; empty if it does not answer."""
        file = self.folder / _STACK
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(1)
        return file.read_text()

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve(pipe: object, work: object, folder: Path) -> None:
    import resource
    import traceback

    resource.setrlimit(resource.RLIMIT_AS, (CEILING_BYTES, CEILING_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stacks = (folder / _STACK).open("w")
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    # Modules imported on demand count as memory in use before.
    work(None, folder)
    pipe.send("ready")
    while True:
        case = pipe.recv()
        before = _peak()
        said = failure = ""
        try:
            said = work(case, folder)
        except BaseException:
            failure = traceback.format_exc()
        pipe.send((said, failure, _peak() - before))


def _peak() -> int:
    """Peak address space of the process in bytes, including memory that was requested but not used."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmPeak:")[2].split()[0]) << 10
