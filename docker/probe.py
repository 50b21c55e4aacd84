"""Fail unless this process is not root, has no network, and can write only to /data and /tmp (see ``check.sh``)."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path


def can_write(folder: Path) -> bool:
    """Whether a file can be created in a folder."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def main() -> None:
    """Check user, network and file system, one line each."""
    if os.getuid() == 0:
        raise SystemExit("user: runs as root")
    print(f"user: {os.getuid()}:{os.getgid()}, no root")

    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    if interfaces:
        raise SystemExit(f"network: {', '.join(interfaces)} can be used")
    print("network: none")

    writable = [str(each) for each in map(Path, ("/", "/opt", "/etc", "/usr", "/var/tmp")) if can_write(each)]
    if writable:
        raise SystemExit(f"file system: {', '.join(writable)} can be written")
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        raise SystemExit("file system: the root is not mounted read-only")
    unwritable = [str(each) for each in map(Path, ("/data", "/tmp")) if not can_write(each)]
    if unwritable:
        raise SystemExit(f"file system: {', '.join(unwritable)} cannot be written")
    print("file system: read-only but for /data and /tmp")


if __name__ == "__main__":
    main()
