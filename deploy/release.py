"""Build the wheel and the sdist of this version into dist/.

Refuses a tree with changes that are not committed, and a version that CHANGELOG.md
does not describe: what is released can be found again, and its users can read about it.

    python deploy/release.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = Path("src/miaobi/core/version.py")
CHANGES = "CHANGELOG.md"


def version_of(root: Path) -> str:
    """Return the version that the package names."""
    text = (root / VERSION).read_text(encoding="utf-8")
    named = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert named is not None
    return named[1]


def obstacles(root: Path) -> list[str]:
    """Return why there can be no release of the tree at `root`."""
    why = list[str]()
    status = subprocess.run(
        ["git", "status", "--porcelain"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    changed = status.stdout.splitlines()
    if changed:
        why.append(f"{len(changed)} files are not committed, first {changed[0][3:]}.")
    version = version_of(root)
    changes = (root / CHANGES).read_text(encoding="utf-8")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    if not re.search(heading, changes, re.MULTILINE):
        why.append(f"{CHANGES} has no section `## [{version}] - DATE`.")
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)^## ", changes, re.M | re.S)
    if unreleased is not None and unreleased[1].strip():
        why.append(
            f"{CHANGES} has unreleased changes: give them the next version and set it in {VERSION}."
        )
    return why


def main() -> int:
    why = obstacles(ROOT)
    for reason in why:
        print(f"No release: {reason}", file=sys.stderr)
    if why:
        return 1
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    return subprocess.run(build, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
