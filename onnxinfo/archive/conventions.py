"""What a file says about itself to readers that do not know onnxinfo: title, conventions, history, readme."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import h5py

from .format import VERSION, write_attribute

TITLE = "What each layer of trained networks discards of its input, measured by onnxinfo"
CONVENTIONS = f"onnxinfo-{VERSION}"
README = """\
This HDF5 file follows the netCDF-4 conventions for dimensions. Each group is a run: one analysis of one
model on one set of samples. Below, FILE is the name of this file, RUN the name of a group, and M a metric
that the group's attribute "metrics" names, such as sid.

  RUN/layer, RUN/sample_name   names of the layers and samples
  RUN/M                        value of each layer and sample, (layer, sample); attribute "units"
  RUN/M_map                    value at each input unit, (layer, sample, axes of the input); not of all metrics
  RUN/M_done                   1 where the cell is finished; ignore all others
  RUN/M_converged              1 where the value is proven
  RUN/label, RUN/thumbnail     class and thumbnail of each sample, if there are any
  attributes of RUN            settings, model, samples, versions; "recipe" lists those that determine the numbers

Python   onnxinfo.open(FILE)[RUN].to_xarray()
         xarray.open_dataset(FILE, group=RUN, engine="h5netcdf")
         h5py.File(FILE)[RUN]["sid"][layer, sample]
MATLAB   h5read(FILE, "/RUN/sid")
R        rhdf5::h5read(FILE, "RUN/sid")
shell    h5dump -d /RUN/sid FILE

Text is fixed-length UTF-8. Maps are compressed with shuffle and deflate, which every HDF5 library includes.
Specification: docs/format.md in the source of onnxinfo."""

#: Older lines are dropped, so that a file that is changed again and again stays small.
MAX_LINES = 1000


def line(what: str) -> str:
    """Return a line of the history: date and time, version, and what was done."""
    from .. import __version__

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"{now} onnxinfo {__version__}: {what}"


def describe(file: h5py.File, history: Iterable[str]) -> None:
    """Write the attributes of a new file.

    Parameters
    ----------
    file
        The file, open for writing.
    history
        What was done to the archive, oldest first, one line each.
    """
    write_attribute(file, "title", TITLE)
    write_attribute(file, "Conventions", CONVENTIONS)
    write_attribute(file, "history", "\n".join([*history][-MAX_LINES:]))
    write_attribute(file, "readme", README)
