"""Information about samples in archives and reports: pictures and names, or neither."""

import logging

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
CLASSES, FILES = ("diagnosis-q7", "healthy-k3"), ("jane-doe.png", "john-roe.png")
SECRETS = [*CLASSES, *(name.removesuffix(".png") for name in FILES), "broken-scan", "ward-x5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders with images, one of them unreadable, and a CSV of boxes by name."""
    parent = tmp_path_factory.mktemp("images")
    top = parent / "ward-x5"
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        (top / kind).mkdir(parents=True)
        for name in FILES:
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(top / kind / name)
    (top / CLASSES[0] / "broken-scan.png").write_bytes(b"none")
    boxes = [f"{kind}/{name},1,1,6,6" for kind in CLASSES for name in FILES]
    (top / "boxes.csv").write_text("\n".join(["name,xmin,ymin,xmax,ymax", *boxes]))
    return top


def analyze(folder, target, **options):
    options = {"layers": ["-1"], "metrics": ["concentration"], "foreground": folder / "boxes.csv"} | options
    return onnxinfo.analyze(MODEL, str(folder), target, **options)


def told(*files):
    """Names that occur anywhere in some files."""
    content = b"".join(file.read_bytes() for file in files)
    return [secret for secret in SECRETS if secret.encode() in content]


def test_the_names_are_in_an_archive_by_default(folder, tmp_path):
    analyze(folder, tmp_path / "a.h5")
    assert set(told(tmp_path / "a.h5")) == set(SECRETS) - {"ward-x5"}


def test_anonymous_names_are_nowhere(folder, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    archive, page, table, said = (tmp_path / name for name in ("a.h5", "a.html", "a.csv", "log"))
    seen = []
    analyze(folder, archive, anonymous_names=True, progress=seen.append)
    with onnxinfo.open(archive) as opened:
        run = opened[opened.runs[0]]
        assert run.sample_names == ["sample 0", "sample 1", "sample 2", "sample 3"]
        assert run.labels.tolist() == [0, 0, 1, 1]
        assert len(run.provenance["unreadable_samples"]) == 1
    onnxinfo.report(archive, page)
    result = CliRunner().invoke(cli, ["query", str(archive), "--per", "sample", "-o", str(table)])
    assert result.exit_code == 0, result.output
    said.write_text(caplog.text + "".join(map(repr, seen)) + result.output)
    assert told(archive, page, table, said) == []
    assert "sample 0" in page.read_text()


def test_the_numbers_do_not_depend_on_names_and_thumbnails(folder, tmp_path):
    analyze(folder, tmp_path / "a.h5", layers=["relu", "-1"])
    analyze(folder, tmp_path / "b.h5", layers=["relu", "-1"], anonymous_names=True, thumbnails=False)
    with onnxinfo.open(tmp_path / "a.h5") as one, onnxinfo.open(tmp_path / "b.h5") as two:
        one, two = one[one.runs[0]], two[two.runs[0]]
        assert one.recipe["samples_sha256"] == two.recipe["samples_sha256"]
        assert one.foreground.tobytes() == two.foreground.tobytes()
        found = [run.values("concentration")["value"].tobytes() for run in (one, two)]
        assert found[0] == found[1]


def test_an_error_names_an_anonymous_sample_by_its_position(tmp_path):
    samples = np.ones((3, 4), np.float32)
    samples[1, 2] = 3e38
    np.save(tmp_path / "jane-doe.npy", samples)
    add = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [None, 4]) for name in "xy")
    graph = onnx.helper.make_graph([add], "add", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    spec = str(tmp_path / "jane-doe.npy")
    with pytest.raises(onnxinfo.OnnxinfoError, match="jane-doe"):
        onnxinfo.analyze(model, spec, tmp_path / "a.h5", layers=["y"], std=1.0)
    with pytest.raises(onnxinfo.OnnxinfoError, match="sample 1") as raised:
        onnxinfo.analyze(model, spec, tmp_path / "a.h5", layers=["y"], std=1.0, anonymous_names=True)
    assert "jane-doe" not in str(raised.value)


def test_the_file_of_a_unit_mask_is_not_named(tmp_path):
    mask = np.ones((3, 1, 8, 8), bool)
    mask[:, :, 0] = False
    np.save(tmp_path / "jane-doe.npy", mask)
    spec, images = str(tmp_path / "jane-doe.npy"), np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    for anonymous in (False, True):
        target = tmp_path / f"{anonymous}.h5"
        options = {"layers": ["-1"], "metrics": ["gradient"], "anonymous_names": anonymous}
        onnxinfo.analyze(MODEL, images, target, unit_mask=spec, **options)
        assert told(target) == ([] if anonymous else ["jane-doe"])


def test_thumbnails_are_left_out(folder, tmp_path):
    for keep in (True, False):
        target = tmp_path / f"{keep}.h5"
        analyze(folder, target, metrics=["gradient"], foreground=None, thumbnails=keep)
        with onnxinfo.open(target) as archive:
            assert (archive[archive.runs[0]].thumbnails is None) != keep
        onnxinfo.report(target, tmp_path / f"{keep}.html")
        onnxinfo.plot_maps(target, tmp_path / f"{keep}.png", metric="gradient")
        onnxinfo.validate(target)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"thumbnails": False}, "thumbnails is true there, false now"),
        ({"anonymous_names": True}, "anonymous_names is false there, true now"),
    ],
)
def test_a_run_is_not_resumed_under_another_flag(folder, tmp_path, options, said):
    class Stopped(Exception):
        pass

    def stop(progress):
        if progress.done:
            raise Stopped

    target = tmp_path / "a.h5"
    chosen = {"layers": ["relu", "-1"], "metrics": ["gradient"], "foreground": None}
    with pytest.raises(Stopped):
        analyze(folder, target, progress=stop, **chosen)
    with pytest.raises(onnxinfo.UsageError, match=said) as raised:
        analyze(folder, target, **chosen, **options)
    assert "\n" not in str(raised.value)
    analyze(folder, target, **chosen)
