"""Locations of the repository, of the tests' own data, and of data outside the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
DOCS = ROOT / "docs"
#: Modules shared by several test files; programs started by tests need them on their path.
SUPPORT = ROOT / "tests" / "support"
#: Trained models and images outside the repository; tests that need them are skipped if they are missing.
SHARED = Path(os.environ.get("ONNXINFO_SHARED", ROOT.parent / "shared"))
#: A folder for each version of the archive format, and an archive of the latest.
VERSIONS = sorted((DATA / "archives").iterdir())
LATEST = VERSIONS[-1] / "archive.h5"
