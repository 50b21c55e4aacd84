"""Ends a study with one line if it cannot use what it was given, finds no file, or is interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from onnxinfo import OnnxinfoError

#: Exit code of an interrupted study, as of the command line.
INTERRUPTED = 130


def as_study(main: Callable[[], None]) -> None:
    """Run a study; the exit code is 0, or that of the error."""
    try:
        main()
    except OnnxinfoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except FileNotFoundError as error:
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
