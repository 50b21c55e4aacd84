"""Models that never terminate are stopped at a time limit, and by Ctrl-C before."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from processes import Command

from onnxinfo import ModelError, analyze, check_model
from onnxinfo.graph.engine import Engine
from onnxinfo.graph.interruption import current_limit, interruptible, time_limit


def endless() -> onnx.ModelProto:
    """A Loop without a limit, whose condition is always true."""
    body = helper.make_graph(
        [helper.make_node("Tanh", ["before"], ["after"]), helper.make_node("Identity", ["goes"], ["still"])],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["", "always", "x"], ["y"], body=body)]
    always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
    return graphs.model(nodes, [graphs.value("x")], [graphs.value("y")], [always])


def test_a_call_returns_and_raises_what_it_does() -> None:
    assert interruptible(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0, lambda: None)


def test_an_error_that_looks_like_a_time_limit_is_none() -> None:
    def fail() -> None:
        raise TimeoutError("own")

    with pytest.raises(TimeoutError, match="own"):
        interruptible(fail, lambda: None)


def test_a_call_is_asked_to_stop_after_the_limit() -> None:
    stopped = threading.Event()
    with time_limit(0.05), pytest.raises(ModelError, match=r"within 0\.05 s.*timeout="):
        interruptible(stopped.wait, stopped.set)
    assert stopped.is_set()


def test_calls_within_a_call_share_its_thread_and_its_end() -> None:
    stopped, entered, seen = threading.Event(), threading.Event(), []

    def outer() -> None:
        seen.append(threading.get_ident())
        interruptible(lambda: seen.append(threading.get_ident()))
        entered.set()
        interruptible(stopped.wait, stopped.set)
        with pytest.raises(ModelError, match="interrupted"):
            interruptible(lambda: seen.append(0))
        seen.append(1)

    with time_limit(0.2), pytest.raises(ModelError, match=r"within 0\.2 s"):
        interruptible(outer)
    assert entered.is_set()
    assert seen[0] == seen[1] != threading.get_ident()
    # The inner call was asked to end, and none follows it.
    assert seen[2:] == [1]


def test_calls_one_after_the_other_share_a_thread_that_keeps_nothing() -> None:
    class Large:
        pass

    def make(large: Large) -> threading.Thread:
        assert large is not None
        return threading.current_thread()

    given = Large()
    kept = weakref.ref(given)
    first = interruptible(functools.partial(make, given))
    del given
    assert kept() is None
    assert interruptible(threading.current_thread) is first
    with pytest.raises(ModelError):
        raising(0.1)
    assert interruptible(threading.current_thread) is not first


def raising(seconds: float) -> None:
    stopped = threading.Event()
    with time_limit(seconds):
        interruptible(lambda: stopped.wait(30), stopped.set)


def test_a_thread_ends_with_the_one_that_it_works_for() -> None:
    interruptible(threading.get_ident)
    before = threading.active_count()
    other = threading.Thread(target=interruptible, args=(threading.get_ident,))
    other.start()
    other.join()
    end = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_a_thread_of_its_own() -> None:
    interruptible(threading.get_ident)
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(int(interruptible(lambda: 7)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_the_limit_ends_with_the_context() -> None:
    before = current_limit()
    with time_limit(5):
        assert current_limit() == 5
    assert current_limit() == before


def test_a_signal_is_heard_during_a_call() -> None:
    stopped = threading.Event()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(stopped.wait, stopped.set)
    assert stopped.is_set()


def test_onnx_runtime_stops_when_it_is_asked_to() -> None:
    engine = Engine(endless(), threads=1)
    before = threading.active_count()
    with time_limit(0.3), pytest.raises(ModelError, match="never ends"):
        engine.run({"x": np.ones((1, 4), np.float32)})
    assert threading.active_count() == before


def test_a_check_gives_up() -> None:
    with pytest.raises(ModelError, match=r"within 0\.5 s"):
        check_model(endless(), np.ones((2, 4), np.float32), timeout=0.5)


def test_an_analysis_gives_up_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"within 0\.5 s"):
        analyze(endless(), np.random.rand(2, 4).astype(np.float32), tmp_path / "a.h5", timeout=0.5)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    onnx.save(endless(), tmp_path / "endless.onnx")
    np.save(tmp_path / "x.npy", np.random.rand(2, 4).astype(np.float32))
    return [str(tmp_path / "endless.onnx"), "--inputs", str(tmp_path / "x.npy")]


def test_ctrl_c_ends_a_check(arguments: list[str], tmp_path: Path) -> None:
    command = Command(["check", *arguments], tmp_path)
    _wait_for_computing(command.process.pid, command.process.is_alive, seconds=2)
    command.send(signal.SIGINT)
    code, _, said = command.wait()
    assert code == 130
    assert "Traceback" not in said


def test_ctrl_c_ends_an_analysis(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxinfo", "analyze", *arguments, "-o", str(tmp_path / "a.h5")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _wait_for_computing(process.pid, lambda: process.poll() is None, seconds=6)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert not (tmp_path / "a.h5").exists()


def _wait_for_computing(pid: int | None, is_alive: Callable[[], bool], seconds: float) -> None:
    """Wait until a process has used more CPU time than it needs before the endless computation."""
    used = Path(f"/proc/{pid}/stat")
    began = time.monotonic()
    while time.monotonic() - began < 240 and is_alive() and _seconds(used) < seconds:
        time.sleep(0.1)


def _seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
