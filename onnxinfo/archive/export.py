"""Export a run to formats that other programs read: netCDF, Parquet and CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import UsageError
from ..kinds import CSV, NETCDF, PARQUET, Kind
from ..outputs import claim
from ..registry import EXPORTERS
from ..text import quoted, spreadsheet_text
from .reading import Run
from .reading import open as open_archive
from .sql_table import copy_to_parquet
from .storage import create_file
from .table import Per


@dataclass(frozen=True)
class Exporter:
    """A file format that a run can be exported to.

    Attributes
    ----------
    kind
        Kind of file; an existing file of this kind is replaced.
    write
        Function that writes a run, tabulated by layer or sample, to a path.
    """

    kind: Kind
    write: Callable[[Run, Path, Per], None]


def export(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    run: str | None = None,
    per: Literal["layer", "sample"] = "sample",
    *,
    raw: bool = False,
    force: bool = False,
) -> None:
    """Write a run to a netCDF (with its maps), Parquet or CSV (its table) file.

    Parameters
    ----------
    path
        The archive.
    output
        The file; its suffix, ``.nc``, ``.parquet`` or ``.csv``, determines the format. An existing table of that
        format is replaced, other files and netCDF files are not.
    run
        Name of the run; optional if there is only one.
    per
        Rows of the table: one per ``layer``, or one per layer and ``sample``.
    raw
        Write text to CSV unchanged; otherwise text that spreadsheet programs would interpret as a formula is prefixed
        with an apostrophe, and control characters are escaped.
    force
        Replace an existing file whatever it contains, but never the archive.

    Raises
    ------
    UsageError
        The suffix is unknown, the file may not be written (see ``force``), the run does not exist, or no run is named
        and there are several.
    ArchiveError
        The archive cannot be read, or the file cannot be written.

    Examples
    --------
    >>> onnxinfo.export("result.h5", "result.csv", per="layer")
    >>> len(Path("result.csv").read_text().splitlines())
    3
    """
    suffix = Path(output).suffix.lower()
    if suffix not in (known := EXPORTERS.names()):
        raise UsageError(f"{output}: cannot export to '{suffix}'; name a file that ends in {', '.join(known)}")
    if raw and suffix != ".csv":
        raise UsageError(f"{quoted(output)}: raw=True is for .csv; other formats always have text as it is")
    exporter: Exporter = TO_RAW_CSV if raw else EXPORTERS.get(suffix)
    target = claim(output, exporter.kind, inputs=[path], force=force)
    with open_archive(path) as archive:
        chosen = archive[run if run is not None else only_run(archive.runs, str(path))]
        with target.writing() as part:
            exporter.write(chosen, part, per)


def only_run(runs: tuple[str, ...], path: str) -> str:
    """Return the name of the only run, or raise :class:`UsageError`."""
    if len(runs) != 1:
        raise UsageError(f"{path} has {len(runs)} runs ({', '.join(runs)}); name one with run=...")
    return runs[0]


def _to_netcdf(run: Run, part: Path, per: Per) -> None:
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    dataset = run.to_xarray()
    for metric in run.metrics:
        if metric.has_map:
            chunks = (1, 1, *run.sample_shape)
            deflated = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": chunks}
            dataset[f"{metric.name}_map"].encoding = deflated
    # dataset.to_netcdf(path) is not used because HDF5 would crash there on a full disk.
    with create_file(part) as file, h5netcdf.File(file, "w") as target:
        dataset.dump_to_store(H5NetCDFStore(target))


def _to_parquet(run: Run, part: Path, per: Per) -> None:
    copy_to_parquet(run.table(per), part)


def _to_raw_csv(run: Run, part: Path, per: Per) -> None:
    _write_csv(run.table(per), part)


def _to_csv(run: Run, part: Path, per: Per) -> None:
    _write_csv({name: map(spreadsheet_text, values) for name, values in run.table(per).items()}, part)


def _write_csv(columns: Mapping[str, Iterable[object]], part: Path) -> None:
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(map(_fields, zip(*columns.values(), strict=True)))


def _fields(row: tuple[object, ...]) -> Iterator[object]:
    """Yield the values of a row, with true and false as the tables of queries and JSON write them."""
    return (str(value).lower() if isinstance(value, bool | np.bool_) else value for value in row)


TO_NETCDF, TO_PARQUET, TO_CSV = Exporter(NETCDF, _to_netcdf), Exporter(PARQUET, _to_parquet), Exporter(CSV, _to_csv)
TO_RAW_CSV = Exporter(CSV, _to_raw_csv)
