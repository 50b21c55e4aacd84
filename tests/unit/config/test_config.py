"""Every setting is reachable from every front end, and help, docs and code agree."""

import dataclasses
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from places import DOCS

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.config import (
    SECTIONS,
    Config,
    DecoderConfig,
    ExecutionConfig,
    FlatOptions,
    InputConfig,
    OutputConfig,
    RuConfig,
    SelectionConfig,
    SidConfig,
    configure,
    entries,
    read_settings,
    recipe,
)
from onnxinfo.models import path
from onnxinfo.moved import FormerNameWarning
from onnxinfo.workflows import idle

MODEL = str(path("digits-cnn.onnx"))
IMAGES, LABELS = f"{path('digits.npz')}:images", f"{path('digits.npz')}:labels"

#: For each setting, a text that stands for a value other than its default.
TEXTS = {
    "layers": "relu_4", "exclude": "relu", "metrics": "gradient", "input_tensor": "image", "unit_mask": "none",
    "set": "sr=16000", "batch_axis": "h=1",
    "keep_precision": "true", "dequantize": "true", "labels": LABELS, "limit": "3", "shuffle": "true",
    "shuffle_seed": "7",
    "tokenizer": "tokenizer.json", "rate": "16000", "fit_length": "both",
    "preset": "unit", "scale": "0.5", "mean": "0.25", "std": "0.25,0.5", "layout": "NCHW", "size": "8,9",
    "resize": "squash", "foreground": "boxes.csv", "crop_to_box": "1.5", "alpha": "0.001", "normalize_by": "sample",
    "budget": "0.02/unit", "share_sigma": "grid:4", "sigma_max": "2", "solver": "reference", "seed": "5",
    "noise_precision": "bfloat16", "error_reference": "reconstruction",
    "decoders": "kept", "decoder_inputs": IMAGES, "decoder_limit": "9", "decoder_width": "8", "decoder_steps": "20",
    "decoder_batch": "4", "decoder_learning_rate": "0.01", "decoder_horizontal_flip": "true", "device": "cpu",
    "target": "logits", "change": "kl:0.1", "measure": "true", "probes": "9",
    "memory_limit": "2G", "engine": "ray", "workers": "2", "threads": "3", "ray_address": "host:1",
    "timeout": "90",
    "run": "named", "compression": "none", "overwrite": "true",
    "retry_unproven": "true", "tag": "study=depth", "min_converged": "0.5",
    "thumbnails": "false", "anonymous_names": "true",
}  # fmt: skip
#: Settings that do not apply to a front end.
LEFT_OUT = {"coherency": {"run"}, "robustness": {"layers", "exclude", "metrics"}}
FRONT_ENDS = ("analyze", "oneshot", "coherency", "robustness")
ENTRIES = {each.setting.flat: each for each in entries()}
RENAMED = [flat for flat, each in ENTRIES.items() if each.setting.former]
RENAMED_WORDS = [
    (flat, former, present) for flat, each in ENTRIES.items() for former, present in each.setting.kind.former.items()
]
REACHED = [(front, flat) for front in FRONT_ENDS for flat in ENTRIES if flat not in LEFT_OUT.get(front, ())]


@pytest.fixture(autouse=True)
def _each_option_alone(monkeypatch):
    """Options are read one by one here, also those without effect by themselves, see test_idle.py."""
    monkeypatch.setattr(idle, "_RULES", ())


class Captured(Exception):
    """Carries the configuration that reaches the computation."""


@pytest.fixture(autouse=True)
def captured(monkeypatch):
    def capture(model, inputs, output, config, progress=None):
        raise Captured(config)

    from onnxinfo.workflows import analyze, coherency, pipeline, robustness

    for module in (analyze, coherency, robustness, pipeline):
        monkeypatch.setattr(module, "run_analysis", capture)


def wanted(flat):
    kind = ENTRIES[flat].setting.kind
    return kind.check(
        TEXTS[flat] == "true" if kind.is_flag else [TEXTS[flat]] if kind.is_repeatable else kind.parse(TEXTS[flat])
    )


def value_of(config, flat):
    target = config
    for name in SECTIONS[ENTRIES[flat].section][0]:
        target = getattr(target, name)
    return getattr(target, ENTRIES[flat].name)


def needed(front, flat):
    """Other settings that a setting requires."""
    more = {"labels": LABELS} if front == "robustness" and flat != "labels" else {}
    return more | ({"engine": "ray"} if flat == "ray_address" else {})


def from_python(front, tmp_path, **options):
    target = tmp_path if front == "oneshot" else tmp_path / "out.h5"
    with pytest.raises(Captured) as raised:
        getattr(onnxinfo, front)(MODEL, IMAGES, target, **options)
    return raised.value.args[0]


def from_line(front, tmp_path, *arguments, env=None):
    target = tmp_path if front == "oneshot" else tmp_path / "out.h5"
    line = ["-q", front, MODEL, "--inputs", IMAGES, "-o", str(target), *arguments]
    result = CliRunner().invoke(cli, line, env=env)
    assert isinstance(result.exception, Captured), (result.output, result.exception)
    sys.stderr.write(result.stderr)
    return result.exception.args[0]


def options_of(settings):
    for flat, text in settings.items():
        setting = ENTRIES[flat].setting
        if setting.kind.is_flag:
            yield setting.flag if text == "true" else f"--no-{setting.flag[2:]}"
        else:
            yield from (setting.flag, text)


@pytest.mark.parametrize(("front", "flat"), REACHED)
def test_every_setting_is_reached_from_everywhere(front, flat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxes.csv").touch()
    value, more = wanted(flat), needed(front, flat)
    assert value != ENTRIES[flat].default
    assert value_of(from_python(front, tmp_path, **more, **{flat: value}), flat) == value
    texts = more | {flat: TEXTS[flat]}
    assert value_of(from_line(front, tmp_path, *options_of(texts)), flat) == value
    variables = {ENTRIES[name].setting.variable: text for name, text in texts.items()}
    assert value_of(from_line(front, tmp_path, env=variables), flat) == value
    (tmp_path / "settings.toml").write_text(toml(more | {flat: value}))
    assert value_of(from_line(front, tmp_path, "--config", "settings.toml"), flat) == value
    assert value_of(from_python(front, tmp_path, **read_settings("settings.toml")), flat) == value


def toml(values):
    tables = {}
    for flat, value in values.items():
        shown = str(value).lower() if isinstance(value, bool) else repr(listed(value))
        tables.setdefault(ENTRIES[flat].section, []).append(f"{ENTRIES[flat].name} = {shown}")
    return "\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in tables.items())


def listed(value):
    return [*map(listed, value)] if isinstance(value, tuple) else value


@pytest.mark.parametrize("front", FRONT_ENDS)
def test_objects_reach_every_front_end(front, tmp_path):
    more = {} if front == "robustness" else {"layers": ["relu_4"]}
    out = OutputConfig(compression="none", run=None if front == "coherency" else "named")
    objects = {
        "input": InputConfig(labels=LABELS, limit=3), "sid": SidConfig(alpha=0.01),
        "ru": RuConfig("reconstruction", DecoderConfig(width=8)), "execution": ExecutionConfig(threads=2), "out": out,
    }  # fmt: skip
    config = from_python(front, tmp_path, **objects, **more, limit=5)
    assert config.input == dataclasses.replace(objects["input"], limit=5)
    assert all(getattr(config, name) == objects[name] for name in ("sid", "ru", "execution"))
    assert config.out.compression == "none"


def test_the_line_counts_more_than_the_environment_and_that_more_than_the_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[sid]\nalpha = 0.1\nseed = 1\nsigma_max = 3\n[input]\nshuffle = true\n")
    config = from_line(
        "analyze", tmp_path, "--config", str(file), "--seed", "3", "--no-shuffle",
        env={"ONNXINFO_SEED": "2", "ONNXINFO_SIGMA_MAX": "2"},
    )  # fmt: skip
    assert (config.sid.alpha, config.sid.sigma_max, config.sid.seed) == (0.1, 2, 3)
    assert not config.input.shuffle


def test_several_values_in_the_environment_are_separated_by_spaces(tmp_path):
    config = from_line("analyze", tmp_path, env={"ONNXINFO_LAYERS": "relu op:Conv"})
    assert config.selection.layers == ("relu", "op:Conv")


def test_the_typed_keywords_are_the_fields():
    declared = {name: each.__forward_arg__ for name, each in FlatOptions.__annotations__.items()}
    classes = {section: described for section, (_, described) in SECTIONS.items()}
    fields = {
        each.setting.flat: classes[each.section].__annotations__[each.name]
        for each in entries()
        if each.section != "selection"
    }
    assert declared == fields
    assert len(ENTRIES) == len([*entries()]), "flat names are unique"


@pytest.mark.parametrize("front", FRONT_ENDS)
def test_help_describes_every_setting(front):
    shown = re.sub(r"\s+|(?<=-)\n\s*", "", CliRunner().invoke(cli, [front, "--help"]).output)
    for flat, each in ENTRIES.items():
        if flat not in LEFT_OUT.get(front, ()):
            assert each.setting.flag in shown
            assert re.sub(r"\s+", "", each.setting.help) in shown, flat


def test_the_docs_list_every_setting(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from configuration_reference import TARGET, reference

    assert TARGET.read_text() == reference(), "run python docs/configuration_reference.py"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"limit": 0}, "limit 0 is not usable: give an integer of at least 1"),
        ({"limit": True}, "limit True is not usable: give an integer of at least 1"),
        ({"limit": "3"}, "limit '3' is not usable: give an integer of at least 1"),
        ({"keep_precision": "no"}, "keep_precision 'no' is not usable: give true or false"),
        ({"alpha": float("nan")}, "alpha nan is not usable: give a positive number"),
        ({"sigma_max": -1}, "sigma_max -1 is not usable: give a positive number"),
        ({"share_sigma": "grid:0"}, "share_sigma 'grid:0' is not usable: give unit, pixel or grid:N, such as grid:4"),
        ({"normalize_by": None}, "normalize_by None is not usable: give dataset, sample or feature"),
        (
            {"budget": 0},
            "budget 0 is not usable: give a positive number, for the sum over the feature's entries, or suc",
        ),
        ({"budget": "1/pixel"}, "budget '1/pixel' is not usable: give a positive number"),
        ({"budget": 1, "alpha": 0.1}, "budget 1.0 is absolute, and alpha 0.1 is relative: give one of them"),
        ({"budget": 1, "normalize_by": "feature"}, "budget 1.0 is absolute, and normalize_by 'feature' makes it rela"),
        ({"solver": "forward", "normalize_by": "sample"}, "normalize_by 'sample' is relative to the Jacobian, which"),
        ({"size": (8, 0)}, "size (8, 0) is not usable: give a side in pixels, or height and width such as 224,160"),
        ({"resize": "fit"}, "resize 'fit' is not usable: give crop, squash, none or the length of the shorter side in"),
        ({"mean": [0.1, "x"]}, "mean [0.1, 'x'] is not usable: give a number, or one per channel"),
        ({"memory_limit": "lots"}, "memory_limit 'lots' is not usable: give a number of bytes, or such as 512M or 2G"),
        ({"decoder_learning_rate": 0}, "decoder_learning_rate 0 is not usable: give a positive number"),
        ({"layers": [1.5]}, "layers [1.5] is not usable: give text, the number of a layer"),
        ({"sid": 3}, "sid is int: give a SidConfig of onnxinfo.config"),
        ({"limt": 3}, "no option 'limt' in an analysis; did you mean 'limit'"),
    ],
)
def test_what_is_not_usable_is_one_line(values, said):
    with pytest.raises(onnxinfo.UsageError) as raised:
        configure(Config(), values)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_values_are_brought_to_one_form():
    config = configure(
        Config(), {"alpha": 1, "memory_limit": "1.5K", "layers": "relu", "limit": np.int64(3), "mean": [0, 1]}
    )
    assert type(config.sid.alpha) is float
    assert config.execution.memory_limit == 1536
    assert config.selection.layers == ("relu",)
    assert type(config.input.limit) is int
    assert config.input.mean == (0.0, 1.0)


@pytest.mark.parametrize("option", ["layers", "exclude", "metrics"])
def test_robustness_refuses_layers_and_metrics_before_any_work(option, tmp_path):
    with pytest.raises(onnxinfo.UsageError, match=f"at the model's scores: leave out {option}"):
        onnxinfo.robustness("absent.onnx", IMAGES, tmp_path / "o.h5", labels=LABELS, **{option: ["relu"]})


def test_a_misspelt_option_is_refused_before_any_work(tmp_path):
    for front in FRONT_ENDS:
        with pytest.raises(onnxinfo.UsageError, match="did you mean 'limit'"):
            getattr(onnxinfo, front)("absent.onnx", "absent", tmp_path / "o.h5", limt=3)
    with pytest.raises(onnxinfo.UsageError, match="did you mean 'preset'"):
        onnxinfo.check_model("absent.onnx", "absent", preest="unit")
    with pytest.raises(onnxinfo.UsageError, match="did you mean 'width'"):
        onnxinfo.train_decoder("absent.onnx", "absent", tmp_path, widht=3)


@pytest.mark.parametrize(("name", "config"), [("sid", SidConfig()), ("execution", ExecutionConfig())])
def test_an_object_that_means_nothing_to_a_function_is_refused(name, config):
    with pytest.raises(onnxinfo.UsageError, match=f"'{name}'"):
        onnxinfo.check_model("absent.onnx", "absent", **{name: config})


def test_the_objects_are_public():
    for section, (_, config) in SECTIONS.items():
        assert section == "selection" or getattr(onnxinfo, config.__name__) is config


def recorded(config):
    return [recipe(each) for each in (config.sid, config.ru, config.ru.decoder)]


def said(former, present):
    return f"{former} is now called {present}; the next release drops the former name"


def warned_here(warned):
    """The warnings, which point to the line outside onnxinfo."""
    assert issubclass(FormerNameWarning, DeprecationWarning)
    assert {Path(each.filename).name for each in warned} <= {Path(__file__).name}
    return [str(each.message) for each in warned]


@pytest.mark.parametrize("flat", RENAMED)
def test_a_former_keyword_works_and_names_the_present_one(flat, tmp_path):
    setting, value, more = ENTRIES[flat].setting, wanted(flat), needed("analyze", flat)
    with pytest.warns(FormerNameWarning) as warned:
        config = from_python("analyze", tmp_path, **more, **{setting.former: value})
    assert warned_here(warned) == [said(f"'{setting.former}'", f"'{flat}'")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config == from_python("analyze", tmp_path, **more, **{flat: value})
    assert recorded(config) == recorded(configure(Config(), more | {flat: value}))
    with pytest.raises(onnxinfo.UsageError, match=f"'{setting.former}' is the former name of '{flat}'"):
        onnxinfo.analyze(MODEL, IMAGES, tmp_path / "o.h5", **more, **{setting.former: value, flat: value})


@pytest.mark.parametrize("flat", RENAMED)
def test_a_former_option_works_and_names_the_present_one(flat, tmp_path, capsys):
    setting, more = ENTRIES[flat].setting, [*options_of(needed("analyze", flat))]
    former = f"--{setting.former.replace('_', '-')}"
    value = [] if setting.kind.is_flag else [TEXTS[flat]]
    present = from_line("analyze", tmp_path, *more, setting.flag, *value)
    assert capsys.readouterr().err == ""
    assert present == from_line("analyze", tmp_path, *more, former, *value)
    assert capsys.readouterr().err == said(former, setting.flag) + "\n"
    if setting.kind.is_flag:
        off = f"--no-{former[2:]}"
        assert not value_of(from_line("analyze", tmp_path, *more, former, off), flat)
        assert said(off, f"--no-{setting.flag[2:]}") in capsys.readouterr().err
    else:
        assert present == from_line("analyze", tmp_path, *more, f"{former}={TEXTS[flat]}")
    shown = CliRunner().invoke(cli, ["analyze", "--help"]).output
    assert not re.search(rf"{former}\b(?!-)", shown)


@pytest.mark.parametrize("flat", RENAMED)
def test_a_former_variable_works_and_names_the_present_one(flat, tmp_path, capsys):
    setting, more = ENTRIES[flat].setting, [*options_of(needed("analyze", flat))]
    present, former = setting.variable, setting.former_variable
    assert former == f"ONNXINFO_{setting.former.upper()}"
    expected = from_line("analyze", tmp_path, *more, env={present: TEXTS[flat]})
    assert capsys.readouterr().err == ""
    assert expected == from_line("analyze", tmp_path, *more, env={former: TEXTS[flat]})
    assert capsys.readouterr().err == said(former, present) + "\n"
    assert expected == from_line("analyze", tmp_path, *more, env={former: "none of it", present: TEXTS[flat]})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flat", RENAMED)
def test_a_former_key_of_the_configuration_file_works_and_names_the_present_one(flat, tmp_path, capsys):
    entry, more, file = ENTRIES[flat], [*options_of(needed("analyze", flat))], tmp_path / "settings.toml"
    file.write_text(toml({flat: wanted(flat)}))
    expected = from_line("analyze", tmp_path, *more, "--config", str(file))
    assert capsys.readouterr().err == ""
    former = entry.setting.former_of(entry.name)
    file.write_text(file.read_text().replace(f"\n{entry.name} =", f"\n{former} ="))
    assert expected == from_line("analyze", tmp_path, *more, "--config", str(file))
    assert capsys.readouterr().err == said(f"'{former}'", f"'{entry.name}'") + "\n"
    with pytest.warns(FormerNameWarning) as warned:
        assert read_settings(file) == {flat: value_of(expected, flat)}
    assert warned_here(warned) == [said(f"'{former}'", f"'{entry.name}'")]


@pytest.mark.parametrize(("flat", "former", "present"), RENAMED_WORDS)
def test_a_former_word_works_and_names_the_present_one(flat, former, present, tmp_path, capsys):
    setting, file, message = ENTRIES[flat].setting, tmp_path / "settings.toml", said(f"'{former}'", f"'{present}'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = from_python("analyze", tmp_path, **{flat: present})
    with pytest.warns(FormerNameWarning) as warned:
        assert from_python("analyze", tmp_path, **{flat: former}) == expected
    assert warned_here(warned) == [message]
    with pytest.warns(FormerNameWarning) as warned:
        assert type(expected.sid)(**{ENTRIES[flat].name: former}) == expected.sid
    assert warned_here(warned) == [message]
    file.write_text(toml({flat: former}))
    for way in ([setting.flag, former], ["--config", str(file)]):
        assert from_line("analyze", tmp_path, *way) == expected
        assert capsys.readouterr().err == message + "\n"
    assert from_line("analyze", tmp_path, env={setting.variable: former}) == expected
    assert capsys.readouterr().err == message + "\n"
    assert recipe(expected.sid)[setting.recipe] == former, "archives keep it"


def test_former_names_work_where_settings_are_called_otherwise(tmp_path, monkeypatch, capsys):
    from onnxinfo.workflows import decoders

    def capture(base, options, *sections):
        raise Captured(configure(base, options, *sections))

    monkeypatch.setattr(decoders, "configure", capture)
    with pytest.warns(DeprecationWarning, match="'flips' is now called 'horizontal_flip'"), pytest.raises(Captured):
        onnxinfo.train_decoder(MODEL, IMAGES, tmp_path, flips=True)
    line = ["-q", "decoder", "train", MODEL, "--inputs", IMAGES, "-o", str(tmp_path), "--flips", "--perturb", "image"]
    result = CliRunner().invoke(cli, line)
    assert result.exception.args[0].ru.decoder.horizontal_flip
    assert result.exception.args[0].input.input_tensor == ("image",)
    assert result.stderr.splitlines() == [
        said("--flips", "--horizontal-flip"),
        said("--perturb", "--input-tensor"),
    ]


def test_the_former_keyword_of_the_functions_that_list_layers_works():
    for function in (onnxinfo.list_layers, onnxinfo.perturbed_tensors):
        with pytest.warns(DeprecationWarning, match="'perturb' is now called 'input_tensor'"):
            former = function(MODEL, perturb="image")
        assert former == function(MODEL, input_tensor="image") == function(MODEL, "image")
    result = CliRunner().invoke(cli, ["layers", MODEL, "--perturb", "image"])
    assert said("--perturb", "--input-tensor") in result.stderr.splitlines()
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sidd]\nalpha = 1", "no table 'sidd' in"),
        ("alpha = 1", "no table 'alpha' in"),
        ("[sid]\nalhpa = 1", "no setting 'alhpa' in table [sid] of"),
        ("[ru.decodr]\nwidth = 1", "no setting 'decodr' in table [ru] of"),
        ("[sid]\nalpha = 'x'", "sid.alpha in"),
        ("[sid", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_configuration_file_that_is_not_usable_is_one_line(text, said, tmp_path):
    file = tmp_path / "settings.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(onnxinfo.UsageError) as raised:
        read_settings(file)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_repeatable_option_with_two_values_is_explained(monkeypatch, capsys):
    from onnxinfo.cli import main

    monkeypatch.setattr(sys, "argv", ["onnxinfo", "analyze", "m", "--inputs", "x", "-o", "o.h5", "--layers", "a", "b"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert (
        "unexpected extra argument (b); to give several values, repeat the option: --layers a"
        in capsys.readouterr().err
    )


def test_the_recipe_keeps_the_keys_of_archives_that_exist():
    """Runs are resumed only with the same keys and values; the order of a decoder's keys counts, too."""
    assert recipe(SidConfig(normalize_by="sample", share_sigma="grid:4", sigma_max=2)) == {
        "alpha": 1.5e-4, "normalizer": "image", "tie": "grid:4", "cap": 2.0, "solver": "auto", "seed": 0
    }  # fmt: skip
    assert recipe(SidConfig()) == {
        "alpha": 1.5e-4, "normalizer": "dataset", "tie": "unit", "cap": 1.0, "solver": "auto", "seed": 0
    }  # fmt: skip
    assert recipe(SidConfig(normalize_by="feature")) == {
        "alpha": 0.01, "normalizer": "feature", "tie": "unit", "cap": 1.0, "solver": "auto", "seed": 0
    }  # fmt: skip
    assert recipe(SidConfig(budget="0.5 / unit", solver="forward")) == {
        "normalizer": "absolute", "budget": "0.5/unit", "tie": "unit", "cap": 1.0, "solver": "forward", "seed": 0
    }  # fmt: skip
    expected = {"width": 32, "steps": 400, "batch": 32, "learning_rate": 3e-3, "flips": False}
    assert [*recipe(DecoderConfig()).items()] == [*expected.items()]
    assert recipe(RuConfig()) == {"ru_center": "input"}


def test_objects_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SidConfig().alpha = 1
    assert SelectionConfig() == SelectionConfig((), (), ("sid",))
