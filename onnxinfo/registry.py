"""Extension points of onnxinfo: registration by decorator or by another package's entry points.

Objects are imported on first use, so listing their names costs nothing. See docs/extending.md.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from .errors import UsageError
from .text import no_such

T = TypeVar("T")
Added = TypeVar("Added")


class Registry(Generic[T]):
    """Objects by name: built-in ones, those of installed packages, and those registered by a program.

    Parameters
    ----------
    noun
        Noun for an object in messages.
    group
        Entry-point group of other packages.
    own
        Built-in objects, as ``module:attribute`` by name.
    """

    def __init__(self, noun: str, group: str, own: Mapping[str, str]) -> None:
        self._noun, self.group = noun, group
        self._own = dict(own)
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Added], Added]:
        """Return a decorator that registers an object.

        Raises
        ------
        UsageError
            The name is taken.
        """

        def add(added: Added) -> Added:
            known: Any = self._registered.get(name)
            if (name in self.names() and name not in self._registered) or known not in (None, added):
                raise UsageError(f"{self._noun} '{name}' exists: choose another name")
            self._registered[name] = added  # type: ignore[assignment]
            return added

        return add

    def names(self) -> list[str]:
        """List all names, built-in ones first."""
        return list(dict.fromkeys([*self._own, *_installed(self.group), *self._registered]))

    def check(self, name: str) -> None:
        """Raise if a name does not exist; nothing is imported.

        Raises
        ------
        UsageError
            The name does not exist.
        """
        if name not in self.names():
            raise UsageError(no_such(self._noun, name, self.names(), "onnxinfo"))

    def get(self, name: str) -> T:
        """Return the object with a name, importing it if necessary.

        Raises
        ------
        UsageError
            The name does not exist, or the object of another package cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            own: T = getattr(importlib.import_module(module, __package__), attribute)
            return own
        self.check(name)
        return self._loaded(_installed(self.group)[name])

    def load_installed(self) -> None:
        """Import the entry points of all packages, which may register further objects."""
        for each in _installed(self.group).values():
            self._loaded(each)

    def _loaded(self, found: EntryPoint) -> T:
        try:
            loaded: T = found.load()
        except (ImportError, AttributeError) as error:
            package = found.dist.name if found.dist else "another package"
            raise UsageError(
                f"{self._noun} '{found.name}' of {package} cannot be imported: {error}; update or remove the package"
            ) from error
        return loaded


@functools.cache
def _installed(group: str) -> Mapping[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=group)}


#: Classes of metrics; see :class:`.analysis.blocks.Measure`.
METRICS: Registry[Any] = Registry(
    "metric",
    "onnxinfo.metrics",
    {
        "sid": ".analysis.measures:Sid",
        "concentration": ".analysis.concentration:Concentration",
        "ru": ".analysis.ru:Ru",
        "gradient": ".analysis.baselines:Gradient",
        "gradcam": ".analysis.baselines:GradCam",
        "cam": ".analysis.baselines:Cam",
        "robustness": ".analysis.robustness:Robustness",
        "sensitivity": ".analysis.sensitivity_metric:SensitivityMetric",
        "cka": ".analysis.cka:Cka",
        "vinfo": ".analysis.label_information:VInformation",
        "probe": ".analysis.label_information:Probe",
    },
)

#: Functions ``draw(archives, output=None, **options)`` that return the figure, and write it if there is an output.
PLOTS: Registry[Callable[..., Any]] = Registry(
    "kind of plot",
    "onnxinfo.plots",
    {
        "overview": ".views.plots.overview:draw_overview",
        "curve": ".views.plots.curve:draw_curve",
        "maps": ".views.plots.maps:draw_maps",
        "difference": ".views.plots.difference:draw_difference",
        "distribution": ".views.plots.distribution:draw_distribution",
        "certificate": ".views.plots.certificate:draw_certificate",
        "scatter": ".views.plots.scatter:draw_scatter",
        "history": ".views.plots.history:draw_history",
        "concentration": ".views.plots.concentration:draw_concentration",
        "coherency": ".views.plots.coherency:draw_coherency",
        "units": ".views.plots.units:draw_units",
        "compare": ".views.plots.compare:draw_compare",
        "columns": ".views.plots.columns:draw_columns",
        "sensitivity": ".views.plots.sensitivity:draw_sensitivity",
        "ranking": ".views.plots.ranking:draw_ranking",
    },
)

#: Functions that show a run, which are methods of it: ``show(run, ...)``.
VIEWS: Registry[Callable[..., Any]] = Registry(
    "view of a run",
    "onnxinfo.views",
    {"plot": ".views.plotting:plot", "report": ".views.report:report", "summary": ".views.summary:summarize"},
)

#: By file suffix without the dot: functions ``open(path, key, kinds)`` that return :class:`.inputs.rows.Rows`, or a
#: :class:`.inputs.formats.Format`.
READERS: Registry[Any] = Registry(
    "input format",
    "onnxinfo.readers",
    {
        "npz": ".inputs.numpy_files:open_npz",
        "npy": ".inputs.numpy_files:open_npy",
        "h5": ".inputs.hdf5_files:open_hdf5",
        "hdf5": ".inputs.hdf5_files:open_hdf5",
        "csv": ".inputs.table_rows:CSV",
        "parquet": ".inputs.table_rows:PARQUET",
        "wav": ".inputs.recordings:RECORDINGS",
        "flac": ".inputs.recordings:RECORDINGS",
        "txt": ".inputs.texts:TEXTS",
    },
)

#: Functions ``open(execution, worker)`` that return a context manager of an :class:`.engines.base.Engine`.
ENGINES: Registry[Callable[..., Any]] = Registry(
    "engine",
    "onnxinfo.engines",
    {"local": ".engines.local:open_local", "ray": ".engines.ray:open_ray"},
)

#: Instances of :class:`.archive.export.Exporter`, by file suffix.
EXPORTERS: Registry[Any] = Registry(
    "export format",
    "onnxinfo.exporters",
    {
        ".nc": ".archive.export:TO_NETCDF",
        ".parquet": ".archive.export:TO_PARQUET",
        ".csv": ".archive.export:TO_CSV",
    },
)

#: Modules that add ONNX operators to the table; see :mod:`.torch_graph.operators.table`.
OPERATORS: Registry[Any] = Registry("module of operators", "onnxinfo.operators", {})
