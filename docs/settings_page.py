"""
docs/settings.md, from the fields of `ifinu.settings.Settings`.

    python docs/settings_page.py            print the page
    python docs/settings_page.py --write    put it into docs/settings.md; `make docs` does that
"""

from __future__ import annotations

import argparse
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr

from ifinu.settings import Settings

PAGE = Path(__file__).with_name("settings.md")
_HEAD = """\
# Settings

<!-- Written by `make docs` from ifinu/settings.py: change the descriptions there. -->

All are environment variables. An empty one counts as unset. An unknown `IFINU_*` is refused, since it is most often a
typing error. A `_FILE` variant names a file that holds the value. Where a row has several names, the first one is
ifinu's, and a name without `IFINU_` is an alias that deployments already use.

| Variable | Default | What it does |
|---|---|---|
"""


def page() -> str:
    """The whole of docs/settings.md."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _rows())


def _rows() -> Iterator[tuple[str, str, str]]:
    for field, names in Settings.names().items():
        info = Settings.model_fields[field]
        is_secret = SecretStr in (info.annotation, *get_args(info.annotation))
        variables = [*names, *([f"{names[0]}_FILE"] if is_secret else [])]
        yield ", ".join(f"`{name}`" for name in variables), _shown(info.default), info.description or ""


def _shown(default: Any) -> str:
    if default is None:
        return "–"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    elif isinstance(default, enum.Enum):
        default = default.value
    elif isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{default}`"


def main() -> None:
    """Print or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/settings.md")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
