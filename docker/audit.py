"""Look for known vulnerabilities of the packages in the image's locks: ``python docker/audit.py``.

Needs pip-audit and its database on the network; without either, says so and exits with 0.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

LOCKS = sorted(Path(__file__).parent.glob("requirements-*.lock"))
# Causes of a failure that are not vulnerabilities.
OFFLINE = ("ConnectionError", "Connection", "Max retries", "NameResolution", "ServiceError", "Timeout", "timed out")


def audit(lock: Path, module: str = "pip_audit", timeout: float = 300) -> tuple[int, str]:
    """Return pip-audit's verdict on a lock (0: nothing known, or not examined), and what it said."""
    if importlib.util.find_spec(module) is None:
        return 0, "skipped: pip-audit is not installed"
    command = [sys.executable, "-m", module, "--requirement", str(lock), "--no-deps", "--disable-pip"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return 0, "skipped: the database of vulnerabilities does not answer"
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        return 0, "skipped: the database of vulnerabilities cannot be reached"
    return done.returncode, (done.stdout + done.stderr).strip()


def main() -> None:
    """Audit all locks."""
    codes = []
    for lock in LOCKS:
        code, said = audit(lock)
        print(f"{lock.name}: {said}")
        codes.append(code)
    raise SystemExit(max(codes))


if __name__ == "__main__":
    main()
