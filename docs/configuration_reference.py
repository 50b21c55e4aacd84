"""Write docs/configuration.md, the table of all settings, from the fields of the configuration objects."""

from __future__ import annotations

from pathlib import Path

from onnxinfo.config import SECTIONS, Entry, entries

TARGET = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

All settings of `analyze`, `oneshot`, `coherency` and `robustness`, in Python, on the command line, in a configuration
file and in the environment; written by `docs/configuration_reference.py`.

An option on the command line takes precedence over an environment variable, that over the configuration file, and
that over the default.

```toml
# analysis.toml
[selection]
layers = ["op:Conv", "logits"]

[input]
preset = "imagenet"
limit = 32

[sid]
alpha = 1e-3
```

    onnxinfo analyze resnet20.onnx --inputs images/ -o result.h5 --config analysis.toml
    ONNXINFO_DEVICE=cuda:1 onnxinfo analyze resnet20.onnx --inputs images/ -o result.h5 --config analysis.toml --limit 8

Relative paths in the file are relative to the working folder. `ONNXINFO_CONFIG` names a file, too; if none is named,
`onnxinfo.toml` in the working folder is read, and a line on standard error says so. Variables of settings that take
several values separate them by spaces. `onnxinfo analyze --show-config` prints all settings in effect and where each
comes from, without an analysis; the other commands with settings take it, too.

Python takes configuration objects, one per concern, single settings by their flat names, or both; a flat name takes
precedence:

```python
import onnxinfo
from onnxinfo.config import InputConfig, SidConfig, read_settings

onnxinfo.analyze(model, images, "result.h5", input=InputConfig(preset="imagenet", limit=32), sid=SidConfig(alpha=1e-3))
onnxinfo.analyze(model, images, "result.h5", preset="imagenet", limit=32, alpha=1e-3)
onnxinfo.analyze(model, images, "result.h5", **read_settings("analysis.toml"))
```

Options on the command line and single settings in Python that certainly would do nothing, such as `--shuffle` without
`--limit`, are refused in one line. In a file, also one that `read_settings` reads, in the environment or in a
configuration object, they do no harm, because these may serve several commands.

Python reads neither a configuration file nor the environment by itself. `coherency` names its runs itself and has no
`run`; `robustness` chooses layers and metrics itself and has no `[selection]`.
"""


def reference() -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *(_section(section) for section in SECTIONS)])


def _section(section: str) -> str:
    path, described = SECTIONS[section]
    where = "keywords of each function" if section == "selection" else f"`{described.__name__}`, keyword `{path[0]}`"
    where = "`DecoderConfig`, attribute `decoder` of `RuConfig`" if section == "ru.decoder" else where
    summary = (described.__doc__ or "").strip().splitlines()[0]
    lines = [f"## [{section}]\n", f"{summary} In Python: {where}.\n"]
    lines += ["| setting | flat name, option, variable | values | default | |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *map(_row, entries(section)), ""])


def _row(entry: Entry) -> str:
    setting = entry.setting
    values = ", ".join(setting.kind.choices) if setting.kind.choices else setting.kind.metavar
    values = "true, false" if setting.kind.is_flag else values
    names = f"`{setting.flat}`, `{setting.flag}`, `{setting.variable}`"
    cells = [f"`{entry.name}`", names, values, setting.unset or _default(entry.default), setting.help]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
