"""Find and decode image files of any color mode, depth and orientation, including malicious ones.

Only common raster formats are opened (none that starts another program), at most ``MAX_PIXELS`` are decoded, and
symbolic links out of the named folder are not followed.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import InputError
from ..text import printable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
#: Maximum number of pixels of a decoded image.
MAX_PIXELS = 89_478_485
#: Maximum size of an image file in bytes.
MAX_FILE_BYTES = 1 << 28

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_COLORS = {1: "L", 3: "RGB", 4: "RGBA"}
#: Numbers of channels that image files can be converted to.
IMAGE_CHANNELS = tuple(_COLORS)
_EIGHT_BITS = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass
class ImageFiles:
    """Image files, sorted by name.

    Attributes
    ----------
    paths
        The files.
    names
        Names relative to the folder, with forward slashes and without unprintable characters.
    classes
        Sorted names of the class folders; empty if the files are in fewer than two folders.
    skipped
        Name and reason of each file left out.
    """

    paths: list[Path]
    names: list[str]
    classes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def read(self, position: int) -> bytes:
        """Return the contents of a file.

        Raises
        ------
        InputError
            It cannot be read; the message is only the reason.
        """
        return read_bytes(self.paths[position])

    def labels(self) -> npt.NDArray[np.int64] | None:
        """Return the class of every file, (n,), as its position in ``classes``; None without classes."""
        if not self.classes:
            return None
        index = {name: position for position, name in enumerate(self.classes)}
        return np.array([index[name.split("/", 1)[0]] for name in self.names], dtype=np.int64)


def find_images(spec: str | os.PathLike[str]) -> ImageFiles:
    """Find the image files of a folder (with its subfolders), of a glob pattern, or a single one.

    Raises
    ------
    InputError
        The path does not exist, or there are no image files.
    """
    path = Path(spec)
    if os.path.isfile(path):
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{printable(path)} is neither an image nor an array file; expected {_expected()}")
        return ImageFiles([path], [printable(path.name)])
    if os.path.isdir(path) or glob.has_magic(str(spec)):
        found = find_files(spec, SUFFIXES)
    elif os.path.exists(path):
        raise InputError(f"{printable(path)} is not a regular file")
    else:
        raise InputError(f"no such file or folder: {printable(path)}")
    if not found.paths:
        reason = f" ({found.skipped[0][0]}: {found.skipped[0][1]})" if found.skipped else ""
        raise InputError(f"no images in {printable(spec)}{reason}; expected {_expected()}")
    return found


def find_files(spec: str | os.PathLike[str], suffixes: Collection[str]) -> ImageFiles:
    """Find the files with some suffixes in a folder (with its sub-folders), or of a glob pattern; there may be none.

    Raises
    ------
    InputError
        The pattern cannot be used.
    """
    path = Path(spec)
    return _in_folder(path, suffixes) if os.path.isdir(path) else _matching(path, suffixes)


def list_images(paths: Iterable[str | os.PathLike[str]]) -> ImageFiles:
    """List the given files in the given order, with names relative to their common folder.

    Raises
    ------
    InputError
        A file is missing or not an image.
    """
    files = [find_images(path).paths for path in paths]
    if any(len(found) != 1 for found in files):
        raise InputError(
            "a sequence of paths names a folder or pattern, expected image files; give the folder by itself"
        )
    flat = [found[0] for found in files]
    if not flat:
        raise InputError("no images: the sequence of paths is empty")
    return ImageFiles(flat, names_of(flat))


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return the names of files, relative to the folder that they share."""
    base = os.path.commonpath([path.absolute().parent for path in paths])
    return [printable(Path(os.path.relpath(path, base)).as_posix()) for path in paths]


def _expected() -> str:
    return ", ".join(sorted(SUFFIXES)) + ", or .npy, .npz:key, .h5:/dataset, .csv, .parquet, .wav, .flac, .txt"


def _in_folder(base: Path, suffixes: Collection[str]) -> ImageFiles:
    closed: list[tuple[str, str]] = []

    def note(error: OSError) -> None:
        name = os.path.relpath(error.filename, base)
        closed.append((printable(name), error.strerror or "cannot be read"))

    candidates: list[Path] = []
    for current, folders, names in os.walk(base, onerror=note):
        links = [name for name in folders if os.path.islink(os.path.join(current, name))]
        folders[:] = [name for name in folders if name not in links and not name.startswith(".")]
        candidates += (Path(current, name) for name in names + links)
    return _sorted_files(base, candidates, closed, suffixes)


def _matching(pattern: Path, suffixes: Collection[str]) -> ImageFiles:
    base = glob_base(pattern)
    try:
        candidates = [match for match in base.glob(str(pattern.relative_to(base))) if not os.path.isdir(match)]
    except (ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"pattern {printable(pattern)} cannot be used: {printable(error)}") from None
    return _sorted_files(base, candidates, [], suffixes)


def glob_base(pattern: Path) -> Path:
    """Return the folder in which a glob pattern searches."""
    plain = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain) if plain else Path(".")


def _sorted_files(
    base: Path, candidates: Iterable[Path], skipped: list[tuple[str, str]], suffixes: Collection[str]
) -> ImageFiles:
    root = Path(os.path.realpath(base))
    files: dict[str, Path] = {}
    for path in candidates:
        name = path.relative_to(base).as_posix()
        if path.name.startswith("."):
            continue
        if not Path(os.path.realpath(path)).is_relative_to(root):
            skipped.append((printable(name), "a symbolic link out of the folder"))
        elif path.suffix.lower() in suffixes:
            files[name] = path
    names = sorted(files)
    folders = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    classes = sorted(printable(folder) for folder in folders) if len(folders) > 1 and "" not in folders else []
    return ImageFiles([files[name] for name in names], [printable(name) for name in names], classes, sorted(skipped))


def read_bytes(path: Path) -> bytes:
    """Return the contents of an image file.

    Raises
    ------
    InputError
        The file is not a regular file, is larger than ``MAX_FILE_BYTES``, or cannot be read.
    """
    try:
        if not os.path.isfile(path):  # a pipe would block, a device would never end
            raise InputError("not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise InputError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
            return file.read(size)
    except OSError as error:
        raise InputError(error.strerror or type(error).__name__) from None


def decode(data: bytes, channels: int) -> npt.NDArray[np.uint8]:
    """Decode an image as it is meant to be displayed.

    First frame, upright according to its EXIF orientation, 16-bit gray scaled to 8 bits, converted to gray, RGB or
    RGBA; for gray and RGB, transparency is dropped, as training pipelines do.

    Parameters
    ----------
    data
        Contents of the file.
    channels
        1 (gray), 3 (RGB) or 4 (RGBA).

    Returns
    -------
    ndarray
        (height, width, channels).

    Raises
    ------
    InputError
        The image is damaged, too large, or has pixels that do not fit 8 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes (checked below), odd metadata and palettes
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{image.width}x{image.height} pixels, expected at most {MAX_PIXELS}")
                image.load()
                pixels = np.asarray(_colored(_upright(image), _COLORS[channels]))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds of errors on damaged data
        raise InputError(_reason(error)) from None
    return pixels.reshape(*pixels.shape[:2], channels)


def checksum(data: bytes) -> bytes:
    """Return the SHA-256 of a file's contents."""
    return hashlib.sha256(data).digest()


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image"
    return printable(" ".join(str(error).split()))[:160] or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata; the pixels are intact
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _colored(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_EIGHT_BITS[np.asarray(image)])
    elif image.mode in ("I", "F"):
        raise InputError("32-bit pixels, expected 8 or 16 bits; give the values as .npy")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert(mode)
