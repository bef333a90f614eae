"""
What a tag releases: prints its section of CHANGELOG.md.

    python3 .github/scripts/release.py v0.1.0

Ends with 1, and says why, when the tag is not the version of the package and the chart, or that section is empty.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_IN_CHART = ("version", "appVersion")  # its own, and that of the image


def faults(tag: str, root: Path) -> list[str]:
    """Why the tree in `root` cannot be released as `tag`; nothing when it can."""
    package = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    chart = dict(
        re.findall(r'^(version|appVersion): *"?([^"\s]+)', (root / "deploy/helm/Chart.yaml").read_text(), re.M)
    )
    stated = {"pyproject.toml": package, **{f"deploy/helm/Chart.yaml, {name}": chart.get(name) for name in _IN_CHART}}
    found = [f"{where} is {version}, the tag {tag}" for where, version in stated.items() if f"v{version}" != tag]
    if not notes(tag, root):
        found.append(f"CHANGELOG.md says nothing below ## [{tag.removeprefix('v')}]")
    return found


def notes(tag: str, root: Path) -> str:
    """The text of the tag's section of CHANGELOG.md, without its heading; empty when there is none."""
    heading = rf"^## \[{re.escape(tag.removeprefix('v'))}\][^\n]*\n"
    section = re.search(rf"{heading}(.*?)(?=^## |^\[[^\]]+\]: |\Z)", (root / "CHANGELOG.md").read_text(), re.M | re.S)
    return section[1].strip() if section else ""


def main() -> int:
    """Command line: the tag."""
    (tag,) = sys.argv[1:]
    root = Path(__file__).parents[2]
    found = faults(tag, root)
    for fault in found:
        print(fault, file=sys.stderr)  # noqa: T201
    if not found:
        print(notes(tag, root))  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
