"""Ends a benchmark with one line if what it was given cannot be used, as the command line does."""

from __future__ import annotations

import sys
from collections.abc import Callable

from onnxinfo import OnnxinfoError


def as_script(main: Callable[[], int | None]) -> None:
    """Run a benchmark; the exit code is what it returns, or that of the error."""
    try:
        sys.exit(main())
    except OnnxinfoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except FileNotFoundError as error:
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)
        sys.exit(1)
