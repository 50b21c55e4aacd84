"""Models of frameworks: recognized without importing the framework, exported, and checked to compute the same."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

import onnxinfo
from onnxinfo.graph import exported as exporting
from onnxinfo.graph.exported import Exported, agree, check_outputs, failure
from onnxinfo.graph.frameworks import export_model, framework_of
from onnxinfo.models import path as bundled
from onnxinfo.workflows.given_model import given_model


def classes(*named):
    """Return an object whose classes have these modules and names, from the first base to its own class."""
    base = object
    for module, name in named:
        base = type(name, (base,), {"__module__": module})
    return base()


@pytest.mark.parametrize(
    ("named", "framework"),
    [
        ([("torch.nn.modules.module", "Module"), ("mine", "Net")], "torch"),
        ([("keras.src.models.model", "Model"), ("keras.src.models.sequential", "Sequential")], "keras"),
        ([("torch.nn.modules.module", "Module"), ("keras.src.models.model", "Model")], "keras"),
        ([("tensorflow.python.keras.engine.training", "Model")], "keras"),
        ([("sklearn.base", "BaseEstimator"), ("sklearn.svm", "SVC")], "sklearn"),
        ([("mine", "Model")], None),
        ([("mine", "Module")], None),
    ],
)
def test_frameworks_are_recognized_by_their_classes(named, framework):
    assert framework_of(classes(*named)) == framework


@pytest.mark.parametrize("source", [b"", "model.onnx", 3, None, np.zeros(3), onnxinfo.load(bundled("digits-cnn.onnx"))])
def test_anything_else_is_of_no_framework(source):
    assert framework_of(source) is None


def test_no_framework_is_imported_for_a_file():
    code = f"import onnxinfo, sys; onnxinfo.load({str(bundled('digits-cnn.onnx'))!r}); print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("torch", "keras", "tensorflow", "sklearn"):
        assert f"'{name}'" not in loaded


@pytest.mark.parametrize(
    ("named", "package", "kind"),
    [
        (("keras.src.models.model", "Model"), "tensorflow", "Keras models"),
        (("sklearn.base", "BaseEstimator"), "skl2onnx", "scikit-learn estimators"),
    ],
)
def test_a_missing_exporter_comes_with_the_command(monkeypatch, named, package, kind):
    source = classes(named)
    source.name, source.n_features_in_ = "net", 3
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(onnxinfo.UsageError, match=f"^to export {kind}, {package} is needed: pip install {package}$"):
        onnxinfo.load(source)


def test_a_torch_module_needs_an_example_and_onnxscript(monkeypatch):
    torch = pytest.importorskip("torch")
    with pytest.raises(onnxinfo.UsageError, match="the torch module Linear, an example of its input is needed"):
        onnxinfo.list_layers(torch.nn.Linear(3, 2))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(onnxinfo.UsageError, match="onnxscript is needed: pip install onnxscript"):
        onnxinfo.load(torch.nn.Linear(3, 2), example=np.zeros((1, 3)))


def test_an_example_is_only_for_modules():
    with pytest.raises(onnxinfo.UsageError, match="'example' is the input of a torch module or Keras model"):
        onnxinfo.load(bundled("digits-cnn.onnx"), example=np.zeros(3))
    with pytest.raises(onnxinfo.UsageError, match="and the model is none"):
        onnxinfo.check_model(bundled("digits-cnn.onnx"), example=np.zeros(3))


def test_an_unknown_object_is_named():
    with pytest.raises(onnxinfo.UsageError, match="or a scikit-learn estimator, not dict"):
        onnxinfo.load({})


def test_models_of_files_are_given_on():
    assert given_model("model.onnx", "images") == "model.onnx"


def identity():
    """Return an exported model that computes x, and its export of an example."""
    from onnx import helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", 1, ["n", 3])], [value("y", 1, ["n", 3])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    return lambda expected: Exported(proto, "Net", "by hand", {"x": x}, expected), x


def test_an_export_that_computes_something_else_is_refused():
    export, x = identity()
    check_outputs(export([x]))
    check_outputs(export([None]))
    with pytest.raises(onnxinfo.ModelError, match="exported from Net computes other values than it in output 0"):
        check_outputs(export([x * 1.01]))
    with pytest.raises(onnxinfo.ModelError, match="has 1 outputs, expected 2"):
        check_outputs(export([x, x]))
    broken = export([x])
    broken.feeds["x"] = np.zeros((2, 4), np.float32)
    with pytest.raises(onnxinfo.ModelError, match="exported from Net does not run: "):
        check_outputs(broken)


def test_agreement_of_labels_and_of_most_rows():
    assert agree(np.array(["a", "b"]), np.array(["a", "b"], dtype=object))
    assert not agree(np.array(["a", "b"]), np.array(["a", "c"], dtype=object))
    assert agree(np.ones((3, 1)), np.ones(3))
    assert agree(np.ones((1, 3)), np.ones(3))
    assert not agree(np.ones((3, 2)), np.ones(6))
    expected = np.zeros(10)
    actual = np.where(np.arange(10) == 3, 1.0, 0.0)
    assert agree(actual, expected, 0.9)
    assert not agree(actual, expected, 0.95)


def test_the_model_is_checked_and_its_export_recorded(monkeypatch, tmp_path):
    export, x = identity()
    source = classes(("sklearn.base", "BaseEstimator"), ("mine", "Net"))
    monkeypatch.setattr("onnxinfo.graph.frameworks._export", lambda source, example: export([x]))
    model = onnxinfo.load(source)
    assert (model.name, model.exported, export_model(source, None).how) == ("Net", "by hand", "by hand")
    assert onnxinfo.load(source).sha256 == model.sha256
    samples = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    onnxinfo.analyze(source, samples, tmp_path / "a.h5", layers=["y"])
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        assert archive["Net"].provenance["exported_by"] == "by hand"
    monkeypatch.setattr("onnxinfo.graph.frameworks._export", lambda source, example: export([x + 1]))
    with pytest.raises(onnxinfo.ModelError, match="computes other values"):
        onnxinfo.load(source)


def test_errors_of_exporters_are_one_line():
    try:
        try:
            raise ValueError("\x1b[1mException encountered\x1b[0m\n\n  the reason\nmore")
        except ValueError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        found = failure("torch.onnx cannot export Net", error)
    assert str(found) == "torch.onnx cannot export Net: the reason; export it yourself and give the ONNX file"
    assert str(failure("a", ValueError(""))).startswith("a: ValueError;")
    assert exporting.needed("json", "x").dumps


@pytest.fixture
def torch():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("torch")


@pytest.mark.slow
def test_a_torch_module(torch, tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    samples = torch.randn(4, 1, 8, 8)
    model = onnxinfo.load(net, example=samples[:1])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(each.training for each in net.modules())
    assert model.sha256 == onnxinfo.load(net, example=samples.numpy()).sha256
    assert b"File " not in model.proto.SerializeToString()
    result = onnxinfo.analyze(net, samples.numpy(), tmp_path / "a.h5", example=samples[:1], layers=["-1"])
    again = onnxinfo.analyze(net, samples.numpy(), tmp_path / "a.h5", layers=["-1"])
    assert (result.unchanged, again.unchanged, result.run) == (False, True, "Sequential")
    with onnxinfo.open(result) as archive:
        assert archive["Sequential"].provenance["exported_by"].startswith(f"torch {torch.__version__}, torch.onnx with")


CNN, IMAGES = bundled("digits-cnn.onnx"), f"{bundled('digits.npz')}:images"


@pytest.mark.parametrize(
    "call",
    [
        lambda **given: onnxinfo.list_layers(CNN, **given),
        lambda **given: onnxinfo.perturbed_tensors(CNN, **given),
        lambda **given: onnxinfo.convert(CNN, **given),
        lambda **given: onnxinfo.expose(CNN, ["relu"], **given),
        lambda **given: onnxinfo.extract(CNN, ["relu"], ["logits"], **given),
        lambda **given: onnxinfo.prune(CNN, 0.5, **given),
        lambda **given: onnxinfo.rescale(CNN, **given),
        lambda **given: onnxinfo.check_model(CNN, **given),
        lambda **given: onnxinfo.doctor(CNN, IMAGES, limit=2, **given),
        lambda **given: onnxinfo.sensitivity(CNN, IMAGES, limit=2, **given),
        lambda **given: onnxinfo.leakage(CNN, IMAGES, accuracy=False, limit=2, **given),
        lambda **given: onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=4, limit=2, **given),
        lambda **given: onnxinfo.recommend_channels(CNN, IMAGES, limit=2, **given),
        lambda **given: onnxinfo.prune_channels(CNN, {"relu_3": {"1": [0]}}, **given),
        lambda **given: onnxinfo.train_decoder(CNN, IMAGES, "unused", limit=2, **given),
    ],
)
def test_functions_of_a_model_take_the_example_of_a_module(call, tmp_path, monkeypatch):
    """A file has none, so that it is refused; `load` uses it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(onnxinfo.UsageError, match="'example' is the input of a torch module or Keras model, and the"):
        call(example=np.zeros((1, 1, 8, 8)))


@pytest.mark.slow
def test_layers_of_a_torch_module_and_its_conversion(torch):
    net, example = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)), torch.ones(1, 3)
    layers = onnxinfo.list_layers(net, example=example)
    assert [layer.op for layer in layers if layer.default] == ["Relu", "Gemm"]
    (found,) = onnxinfo.convert(net, example=example)(example)
    torch.testing.assert_close(found, net(example))


@pytest.mark.slow
def test_torch_modules_with_several_inputs_and_fixed_sizes(torch):
    class Sum(torch.nn.Module):
        def forward(self, a, b=None):
            return {"y": a if b is None else a + b, "z": a.sum(1)}

    class Fixed(torch.nn.Module):
        def forward(self, x):
            return x.reshape(1, 3).cumsum(1)

    one = torch.ones(1, 3)
    for example in ((one, one), {"b": one, "a": one}):
        assert {value.name for value in onnxinfo.load(Sum(), example=example).proto.graph.input} == {"a", "b"}
    assert onnxinfo.load(Fixed(), example=one).name == "Fixed"


@pytest.mark.slow
def test_torch_modules_that_cannot_be_exported(torch, capfd):
    class Branch(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else x * 2

    with pytest.raises(onnxinfo.ModelError, match=r"^torch.onnx cannot export Branch: .*; export it yourself and give"):
        onnxinfo.load(Branch(), example=torch.ones(1, 3))
    with pytest.raises(onnxinfo.ModelError, match=r"^Linear does not accept an example of shape \(1, 4\): "):
        onnxinfo.load(torch.nn.Linear(3, 2), example=np.zeros((1, 4)))
    with pytest.raises(onnxinfo.UsageError, match="example: str is not usable"):
        onnxinfo.load(torch.nn.Linear(3, 2), example="x")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_estimators(tmp_path):
    pytest.importorskip("skl2onnx")
    from sklearn.cluster import DBSCAN
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = np.load(bundled("wine.npz"))
    x, y = data["features"], data["labels"]
    perceptron = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=20))
    for estimator in (perceptron, RandomForestClassifier(5, max_depth=3)):
        with pytest.raises(onnxinfo.UsageError, match="is not fitted: call fit"):
            onnxinfo.load(estimator)
        estimator.fit(x, y)
        result = onnxinfo.analyze(estimator, x[:4], tmp_path / "a.h5", layers=["probabilities"])
        assert result.run == type(estimator).__name__
    with pytest.raises(onnxinfo.UsageError, match=r"does not accept an example of shape \(1, 2\); give rows of 13"):
        onnxinfo.load(perceptron, example=[[1, 2]])
    with pytest.raises(onnxinfo.ModelError, match="skl2onnx cannot export DBSCAN"):
        onnxinfo.load(DBSCAN().fit(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "kind", "expected"),
    [
        ("ensemble", "IsolationForest", ["scores"]),
        ("svm", "OneClassSVM", ["scores"]),
        ("naive_bayes", "GaussianNB", ["sum_result"]),
        ("naive_bayes", "BernoulliNB", ["sum_result"]),
        ("linear_model", "LogisticRegression", ["probability_tensor_scores"]),
        ("linear_model", "SGDClassifier", ["score"]),
        ("neighbors", "KNeighborsClassifier", ["probabilities"]),
        ("discriminant_analysis", "QuadraticDiscriminantAnalysis", None),
        ("mixture", "GaussianMixture", None),
        ("cluster", "KMeans", None),
    ],
)
def test_estimators_whose_export_has_odd_shapes_or_labels(module, kind, expected):
    pytest.importorskip("skl2onnx")
    data = np.load(bundled("wine.npz"))
    estimator = getattr(importlib.import_module(f"sklearn.{module}"), kind)()
    features = data["features"].astype(np.float32)
    model = onnxinfo.load(estimator.fit(features, data["labels"]), example=features)
    names = [layer.name for layer in onnxinfo.list_layers(model) if layer.default]
    assert names == (expected or names)
    assert not {"label", "reshaped_result", "float_prediction"} & set(names)
    # A loop over rows takes long.
    assert "Scan" not in {node.op_type for node in model.proto.graph.node}


@pytest.mark.slow
def test_a_pipeline_with_columns_of_text(tmp_path):
    """Its numbers get noise, and its texts are held; without a table nobody knows that it has texts."""
    pytest.importorskip("skl2onnx")
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    chance = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "age": chance.normal(40, 10, 60),
            "job": chance.choice(["cook", "nurse"], 60),
            "hours": chance.normal(38, 5, 60),
        }
    )
    numbers = ("numbers", StandardScaler(), ["age", "hours"])
    labels = ((frame.age > 40) ^ (frame.job == "cook")).astype(int)
    text = make_pipeline(ColumnTransformer([numbers, ("text", OneHotEncoder(), ["job"])]), LogisticRegression())
    result = onnxinfo.analyze(text.fit(frame, labels), frame, tmp_path / "a.h5", limit=4)
    with onnxinfo.open(result) as archive:
        run = archive[result.run]
        assert run.recipe["perturbed"] == ["age", "hours"]
        assert run.values("sid")["converged"].all()
    with pytest.raises(
        onnxinfo.ModelError, match="if it takes columns by name or text, give a DataFrame as samples or"
    ):
        onnxinfo.load(text)
    columns = make_pipeline(ColumnTransformer([numbers]), LogisticRegression()).fit(frame[["age", "hours"]], labels)
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame[["age", "hours"]], labels)
    for estimator, inputs in ((columns, ["age", "hours"]), (plain, ["features"])):
        model = onnxinfo.load(estimator, example=frame)
        assert [value.name for value in model.proto.graph.input] == inputs
    with pytest.raises(onnxinfo.UsageError, match="does not accept the example: give rows of 2 numbers"):
        onnxinfo.load(plain, example=[["a", "b"]])


@pytest.mark.slow
def test_keras_models():
    keras = pytest.importorskip("keras")
    pytest.importorskip("tf2onnx")
    layers = keras.layers
    net = keras.Sequential(
        [keras.Input((8, 8, 1), name="image"), layers.Conv2D(4, 3), layers.ReLU(), layers.Flatten(), layers.Dense(3)],
        name="small",
    )
    model = onnxinfo.load(net)
    assert model.name == "small"
    assert model.exported.startswith(f"keras {keras.__version__}, tensorflow ")
    assert model.sha256 == onnxinfo.load(net).sha256
    with pytest.raises(onnxinfo.ModelError, match=r"^small does not accept the example: "):
        onnxinfo.load(net, example=np.zeros((2, 5), np.float32))
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(onnxinfo.UsageError, match=r"has no input shape yet: give the argument 'example'"):
        onnxinfo.load(unbuilt)
    assert onnxinfo.load(unbuilt, example=np.zeros((2, 5), np.float32)).proto.graph.input[0].type
    a, b = keras.Input((4,), name="a"), keras.Input((None, 3), name="b")
    several = keras.Model([a, b], [layers.Dense(2)(a), layers.GlobalAveragePooling1D()(b)])
    assert [value.name for value in onnxinfo.load(several).proto.graph.input] == ["a", "b"]
