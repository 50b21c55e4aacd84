"""Ends a script with one line if it cannot use what it was given, finds no file, or is interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from onnxinfo import OnnxinfoError

#: Exit code of an interrupted script, as of the command line.
INTERRUPTED = 130
#: What to do about an interrupted study that keeps what it has finished.
RESUMES = "the same command goes on from here"


def as_script(main: Callable[[], int | None], advice: str = "") -> None:
    """Run a study or a benchmark; the exit code is what it returns, or that of the error.

    Parameters
    ----------
    main
        The script.
    advice
        What to do after an interruption.

    Raises
    ------
    SystemExit
        Always.
    """
    try:
        sys.exit(main())
    except OnnxinfoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except FileNotFoundError as error:
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("; ".join(filter(None, ("interrupted", advice))), file=sys.stderr)
        sys.exit(INTERRUPTED)
