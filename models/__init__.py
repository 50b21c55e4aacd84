"""Small trained networks and the samples to analyze them with; their table is ``README.md`` in that folder."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Return where a bundled file lies.

    Parameters
    ----------
    name
        File name, ``digits-cnn.onnx`` or ``digits.npz``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError
        No such file is bundled; the message lists those that are.
    """
    files = {file.name: file for file in sorted(_HERE.iterdir()) if file.suffix in {".onnx", ".npz"}}
    if name not in files:
        raise FileNotFoundError(f"no bundled file {name!r}; there are {', '.join(files)}")
    return files[name]
