"""Small trained networks and samples to analyze them with; ``README.md`` in this folder has a table of them."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Return the path of a bundled file.

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
