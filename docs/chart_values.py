"""
The tables of values in deploy/helm/README.md, from the comments in values.yaml.

    python docs/chart_values.py            print them
    python docs/chart_values.py --write    put them into the README

The comment above a key describes it. The README's text lists once the values that every component has. Needs
PyYAML.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path(__file__).parents[1] / "deploy" / "helm"
BEGIN, END = "<!-- python docs/chart_values.py -->\n", "<!-- end -->\n"

# Values that every component has, left out where they have no comment.
ALIKE = {
    "affinity", "digest", "extraEnv", "extraVolumeMounts", "extraVolumes", "nodeSelector", "podAnnotations",
    "podLabels", "priorityClassName", "pullPolicy", "tolerations",
}  # fmt: skip
WHOLE = {"resources", "behavior", "scaleUp", "scaleDown", "labels"}  # one value, though it has keys of its own
_LONGEST = 110  # characters of a default


class Value(NamedTuple):
    """One key of values.yaml: a value, or a group of some."""

    path: tuple[str, ...]
    default: Any
    comment: str  # in one line, empty if there is none
    inner: tuple[Value, ...]

    @property
    def name(self) -> str:
        """Its name for `--set`."""
        return ".".join(self.path)

    @property
    def is_one(self) -> bool:
        """Whether it takes one row: a value, or a group with only its own comment."""
        return not self.inner or bool(
            self.comment and len(self.path) > 1 and not any(one.comment or one.inner for one in self.inner)
        )


def values(text: str) -> tuple[Value, ...]:
    """
    The keys of a values file, in its order, each with the comment above it.

    Raises:
        TypeError: The file is not a mapping.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("a values file is a mapping")
    return tuple(_of(root, (), text.splitlines()))


def _of(node: yaml.MappingNode, path: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, node_of_it in node.value:
        here = (*path, key.value)
        above = key.start_mark.line
        while above and lines[above - 1].strip().startswith("#"):
            above -= 1
        words = [line.strip().lstrip("#").strip().removeprefix("-- ") for line in lines[above : key.start_mark.line]]
        nested = isinstance(node_of_it, yaml.MappingNode) and key.value not in WHOLE
        inner = tuple(_of(node_of_it, here, lines)) if nested else ()
        yield Value(here, yaml.SafeLoader("").construct_document(node_of_it), " ".join(words), inner)


def tables(text: str) -> str:
    """The README's tables: one for what stands alone, and one a component, under its comment."""
    found = values(text)
    parts = [_table(row for value in found if not value.inner for row in _rows(value))]
    for value in found:
        if value.inner:
            words = [value.comment] if value.comment else []
            parts += [f"### {value.name}", *words, _table(row for one in value.inner for row in _rows(one))]
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[str]) -> str:
    return "\n".join(["| Value | Default | |", "|---|---|---|", *rows])


def _rows(value: Value) -> Iterator[str]:
    if value.is_one:
        if value.comment or value.path[-1] not in ALIKE:
            yield f"| `{value.name}` | {_shown(value.default)} | {_cell(value.comment)} |"
        return
    if value.comment:
        yield f"| `{value.name}` | | {_cell(value.comment)} |"
    for one in value.inner:
        yield from _rows(one)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(default: Any) -> str:
    if default in ("", None):
        return ""
    written = yaml.safe_dump(default, default_flow_style=True, width=1000, sort_keys=False, allow_unicode=True)
    short = written.removesuffix("...\n").strip()
    return f"`{short}`" if len(short) <= _LONGEST else "in the file"


def main() -> None:
    """Print or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the README")
    made = tables((CHART / "values.yaml").read_text(encoding="utf-8"))
    if not parser.parse_args().write:
        print(made, end="")  # noqa: T201 - what it is for
        return
    readme = CHART / "README.md"
    text, count = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{made}\n{END}",
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{readme} has no place for it: {BEGIN}{END}")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
