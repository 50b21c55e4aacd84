"""Models of frameworks: torch modules, Keras models and scikit-learn estimators, exported to ONNX.

Frameworks are recognized by the names of the classes' modules, so that none is imported unless a model of it is given.
"""

from __future__ import annotations

from typing import Any, Protocol

from .exported import Exported, check_outputs


class TorchModule(Protocol):
    """A torch module."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the parameters and buffers."""


class KerasModel(Protocol):
    """A Keras model."""

    def get_weights(self) -> Any:
        """Return the weights."""


class Estimator(Protocol):
    """A scikit-learn estimator."""

    def get_params(self, deep: bool = True) -> Any:
        """Return the parameters."""


FrameworkModel = TorchModule | KerasModel | Estimator


def framework_of(source: object) -> str | None:
    """Return the framework of a model: ``keras``, ``torch`` or ``sklearn``; None for anything else."""
    classes = [(each.__module__, each.__name__) for each in type(source).__mro__]
    tops = {module.partition(".")[0] for module, name in classes if name == "Model"}
    # With torch as its backend, a Keras model is a torch module, too.
    if tops & {"keras", "tf_keras", "tensorflow"}:
        return "keras"
    if ("torch.nn.modules.module", "Module") in classes:
        return "torch"
    if ("sklearn.base", "BaseEstimator") in classes:
        return "sklearn"
    return None


def export_model(source: Any, example: Any) -> Exported:
    """Export the model of a framework, and check that the result computes the same.

    Raises
    ------
    UsageError
        An example or a package is missing.
    ModelError
        The model cannot be exported, or the result computes something else.
    """
    exported = _export(source, example)
    check_outputs(exported)
    return exported


def _export(source: Any, example: Any) -> Exported:
    framework = framework_of(source)
    if framework == "torch":
        from .from_torch import export_torch

        return export_torch(source, example)
    if framework == "keras":
        from .from_keras import export_keras

        return export_keras(source, example)
    from .from_sklearn import export_sklearn

    return export_sklearn(source, example)
