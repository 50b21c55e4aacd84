"""Where the tests find the repository, their own data, and data outside the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
DOCS = ROOT / "docs"
#: Modules that several test files import; programs that tests start need them on their path.
SUPPORT = ROOT / "tests" / "support"
#: Trained models and images that are not in the repository; tests that need them are skipped without.
SHARED = Path(os.environ.get("ONNXINFO_SHARED", ROOT.parent / "shared"))
#: A folder for each version of the archive's format, and an archive of the latest.
VERSIONS = sorted((DATA / "archives").iterdir())
LATEST = VERSIONS[-1] / "archive.h5"
