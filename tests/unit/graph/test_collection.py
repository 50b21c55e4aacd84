"""Garbage collection is postponed while a model is loaded, and restored."""

import gc

import pytest
from graphs import relu_model

from onnxinfo import ModelError, load
from onnxinfo.graph import model as module
from onnxinfo.graph.collection import paused_collection


def test_collection_is_restored_after_success_and_failure():
    with paused_collection():
        assert not gc.isenabled()
        with paused_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), paused_collection():
        _ = 1 / 0
    assert gc.isenabled()


def test_collection_stays_off_for_a_caller_who_switched_it_off():
    gc.disable()
    try:
        with paused_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_model_is_loaded_without_collections(monkeypatch):
    seen = []
    check = module.check
    monkeypatch.setattr(module, "check", lambda proto: (seen.append(gc.isenabled()), check(proto)))
    load(relu_model())
    with pytest.raises(ModelError):
        load(b"no model")
    assert seen == [False]
    assert gc.isenabled()
