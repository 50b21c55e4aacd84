"""Several processes, and a cluster, give the same numbers as one process, whatever is lost on the way."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import onnxinfo
from onnxinfo.cli import main
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"
#: With more threads, the last digits may differ.
SETTINGS = {"limit": 4, "layers": ["relu", "relu_4", "logits"], "threads": 1, "compression": "lossless"}
CELLS = 12


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Two tasks for each layer."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("onnxinfo.workflows.compute.BLOCK", 2)
        yield


def analyze(archive, **options):
    return onnxinfo.analyze(MODEL, IMAGES, archive, **SETTINGS | options)


def contents(archive):
    """All numbers of the only run of an archive."""
    with onnxinfo.open(archive) as opened:
        (name,) = opened
        run = opened[name]
        found = {}
        for metric in (metric.name for metric in run.metrics):
            found |= {f"{metric}_{column}": values for column, values in run.values(metric).items()}
            if metric != "concentration":
                found[f"{metric}_map"] = np.stack([run.maps(metric, layer) for layer in range(run.shape[0])])
        return run.status, found


def assert_same(archive, other):
    (status, found), (expected_status, expected) = contents(archive), contents(other)
    assert status == expected_status == "complete"
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values, equal_nan=values.dtype.kind == "f"), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    archive = tmp_path_factory.mktemp("alone") / "out.h5"
    analyze(archive)
    return archive


@pytest.mark.usefixtures("quick_workers")
def test_what_tokens_are_embedded_to_is_computed_by_the_workers(tmp_path):
    model, inputs = path("torch-text-transformer.onnx"), f"{path('text.npz')}:tokens"
    for name, workers in (("one", 1), ("two", 2)):
        options = {"limit": 2, "layers": ["linear", "logits"], "threads": 1}
        onnxinfo.analyze(model, inputs, tmp_path / f"{name}.h5", workers=workers, **options)
    assert_same(tmp_path / "two.h5", tmp_path / "one.h5")


@pytest.mark.usefixtures("quick_workers")
def test_a_killed_process_ends_in_one_line_and_the_run_goes_on(tmp_path, alone):
    def kill(progress):
        if progress.layer and not progress.provisional:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(onnxinfo.ResourceError, match="a worker process died"):
        analyze(tmp_path / "out.h5", workers=2, progress=kill)
    with onnxinfo.open(tmp_path / "out.h5") as opened:
        (name,) = opened
        assert 0 < opened[name].finished("sid").sum() < CELLS
    analyze(tmp_path / "out.h5", workers=2)
    assert_same(tmp_path / "out.h5", alone)


@pytest.mark.usefixtures("quick_workers")
def test_ctrl_c_ends_the_processes(tmp_path):
    def interrupt(progress):
        if progress.layer and not progress.provisional:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(tmp_path / "out.h5", workers=2, progress=interrupt)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"engine": "dask"}, "no engine 'dask' in onnxinfo; there is 'local', 'ray'"),
        ({"workers": 0}, "workers 0 is not usable: give an integer of at least 1"),
        ({"threads": -1}, "threads -1 is not usable: give an integer of at least 1"),
        ({"ray_address": "a:1"}, "ray_address is the address of a Ray cluster: add engine='ray'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, options, error):
    with pytest.raises(onnxinfo.UsageError) as caught:
        analyze(tmp_path / "out.h5", **options)
    assert str(caught.value) == error
    assert not (tmp_path / "out.h5").exists()


def test_two_processes_of_the_command_line_give_the_bits_that_one_of_python_does(tmp_path, alone, monkeypatch):
    """The processes are started as users start them."""
    command = ["analyze", MODEL, "--inputs", IMAGES, "-o", str(tmp_path / "out.h5"), "--limit", "4", "--workers", "2"]
    command += ["--threads", "1", "--compression", "lossless"]
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *command, *(f"--layers={name}" for name in SETTINGS["layers"])])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert_same(tmp_path / "out.h5", alone)


def test_without_ray_its_engine_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(onnxinfo.UsageError, match=r"pip install 'onnxinfo\[ray\]'"):
        analyze(tmp_path / "out.h5", engine="ray")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, as processes of this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        # Ray lets its workers yield to all other processes, which on a busy machine means waiting.
        patched.setenv("RAY_worker_niceness", "0")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.add_node(num_cpus=1)
        try:
            yield nodes
        finally:
            nodes.shutdown()


def test_a_cluster_of_two_nodes_survives_the_loss_of_a_worker(tmp_path, alone, cluster):
    killed = []

    def kill(progress):
        if progress.layer and not progress.provisional and not killed:
            killed.append(_busy())
            os.kill(killed[0], signal.SIGKILL)

    analyze(tmp_path / "out.h5", engine="ray", ray_address=cluster.address, progress=kill)
    assert killed
    assert_same(tmp_path / "out.h5", alone)
    with onnxinfo.open(tmp_path / "out.h5") as opened:
        (name,) = opened
        assert opened[name].provenance["engine"] == "ray"


def _busy():
    """A Ray process that is computing a task."""
    for _ in range(300):
        listed = subprocess.run(["pgrep", "--full", "^ray::_perform"], capture_output=True, text=True, check=False)
        if listed.stdout:
            return int(listed.stdout.split()[-1])
        time.sleep(0.1)
    raise AssertionError("no task is computed")


def test_a_task_that_is_refused_ends_in_its_own_words(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("onnxinfo.__version__", "0.0.0")
    with pytest.raises(onnxinfo.UsageError, match=r"a worker has onnxinfo .*, not 0\.0\.0; install the same"):
        analyze(tmp_path / "out.h5", engine="ray", ray_address=cluster.address)


def test_a_cluster_without_room_is_refused(tmp_path, cluster):
    with pytest.raises(onnxinfo.UsageError, match="64 cores wanted, it has 2 CPUs and 0 GPUs"):
        analyze(tmp_path / "out.h5", engine="ray", ray_address=cluster.address, threads=64)
