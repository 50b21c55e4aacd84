"""Setuptools' build backend with reproducible output: the same sources give the same bytes.

Setuptools' wheels keep the files' permissions, and its source archives also their times and owners, so both are
rewritten here with the date ``SOURCE_DATE_EPOCH``. Without that variable, the date is 1980-01-01, the first that a
wheel can store.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, str | list[str] | None] | None
FIRST_DAY = "315532800"


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel (PEP 517)."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", FIRST_DAY)
    name = str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))
    normalize_wheel(Path(wheel_directory, name))
    return name


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Build a source archive (PEP 517)."""
    name = str(build_meta.build_sdist(sdist_directory, config_settings))
    normalize_sdist(Path(sdist_directory, name), int(os.environ.get("SOURCE_DATE_EPOCH", FIRST_DAY)))
    return name


def normalize_wheel(wheel: Path) -> None:
    """Rewrite a wheel, which already has its dates, with the same permissions for all files."""
    content = io.BytesIO()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(content, "w") as target:
        for found in source.infolist():
            member = zipfile.ZipInfo(found.filename, found.date_time)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            target.writestr(member, source.read(found), zipfile.ZIP_DEFLATED)
    wheel.write_bytes(content.getvalue())


def normalize_sdist(archive: Path, date: int) -> None:
    """Rewrite a ``.tar.gz``: members sorted, dated `date` (seconds since 1970), without an owner."""
    content = io.BytesIO()
    with (
        tarfile.open(archive) as source,
        tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for found in sorted(source.getmembers(), key=lambda member: member.name):
            member = tarfile.TarInfo(found.name)
            member.type, member.size, member.mtime = found.type, found.size, date
            member.mode = 0o755 if found.isdir() or found.mode & 0o100 else 0o644
            target.addfile(member, source.extractfile(found) if found.isfile() else None)
    with archive.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=date) as packed:
        packed.write(content.getvalue())
