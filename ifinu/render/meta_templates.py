"""
Templates that Meta has approved, filled in from a notification: `<kind>.meta.json` in a folder of templates.

    {"name": "cobranca_lembrete", "language": "pt_BR",
     "components": [{"type": "body", "parameters": [{"type": "text", "text": "{{ nome }}"}]}]}

`components` is what Meta takes; each of its texts is a Jinja template with the values of `ifinu/render/__init__.py`.
Meta refuses a text that is empty, has a line break, a tab or five spaces, so a row of white space becomes one space.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

SUFFIX = ".meta.json"
_FIELDS = ("name", "language", "components")


@dataclass(frozen=True, slots=True)
class Filled:
    """
    A template with the values of one notification.

    Attributes:
        name: Its name at Meta.
        language: Its code, as `pt_BR`.
        components: As Meta takes them.
    """

    name: str
    language: str
    components: list[Any]

    def texts(self) -> Iterator[str]:
        """All texts in it, some of which are personal data."""
        return _texts(self.components)


class MetaTemplate:
    """
    One of Meta's templates.

    Args:
        path: Its file.
        environment: Compiles its texts.
        names: Of all values that there may be.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is wrong; says why.
        jinja2.TemplateError: A text in it is no template.
    """

    def __init__(self, path: Path, environment: jinja2.Environment, names: frozenset[str]) -> None:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or set(found) != set(_FIELDS):
            raise ValueError(f"is not an object with {', '.join(_FIELDS)}")
        for field in ("name", "language"):
            if not isinstance(found[field], str) or not found[field].strip():
                raise ValueError(f"{field} is not a text")
        if not isinstance(found["components"], list):
            raise ValueError("components is not a list")
        self.file = str(path)
        self.name, self.language = found["name"], found["language"]
        self._components = found["components"]
        self._texts: dict[str, jinja2.Template] = {}
        for text in _texts(self._components):
            if unknown := meta.find_undeclared_variables(environment.parse(text)) - names:
                raise ValueError(
                    f"no value is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}"
                )
            self._texts[text] = environment.from_string(text)

    def filled(self, values: Mapping[str, object]) -> Filled:
        """
        Fill it in.

        Raises:
            jinja2.TemplateError: It needs a value that is not there; or as Jinja.
            ValueError: A text is empty.
        """

        def fill(text: str) -> str:
            if not (written := " ".join(self._texts[text].render(values).split())):
                raise ValueError(f"{text!r} is empty")
            return written

        return Filled(self.name, self.language, _each(self._components, fill))


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict | list):
        for each in part.values() if isinstance(part, dict) else part:
            yield from _texts(each)


def _each(part: Any, change: Callable[[str], str]) -> Any:
    if isinstance(part, str):
        return change(part)
    if isinstance(part, dict):
        return {name: _each(each, change) for name, each in part.items()}
    return [_each(each, change) for each in part] if isinstance(part, list) else part
