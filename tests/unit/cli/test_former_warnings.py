"""Warnings of former names are lines on standard error, each time; other warnings are as usual."""

import warnings

import pytest

from onnxinfo.cli.former import warnings_shown
from onnxinfo.moved import FormerNameWarning


def test_every_former_name_is_a_line(capsys):
    # Python ignores warnings of this kind by default.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _warn_twice()
    assert capsys.readouterr().err == "tie is now share_sigma\n" * 2


def _warn_twice():
    with warnings_shown():
        for name in ("tie", "tie"):
            warnings.warn(f"{name} is now share_sigma", FormerNameWarning, stacklevel=1)


def test_other_warnings_are_as_usual(capsys):
    shown = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(warnings, "showwarning", lambda message, category, *where: shown.append(category))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            with warnings_shown():
                warnings.warn("unusual", UserWarning, stacklevel=1)
    assert shown == [UserWarning]
    assert capsys.readouterr().err == ""
