"""Markdown documents and the commands in them."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

VALUED = {  # options of kubectl that take a value, where it may stand apart
    "-n", "--namespace", "-l", "--selector", "-o", "--container", "-c", "--patch", "-p", "--patch-file", "--since",
    "--max-log-requests", "--timeout", "--tail", "--type", "--raw",
}  # fmt: skip

CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+#.*$", re.MULTILINE)

_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)")
_TABLE = re.compile(r"^\|[^\n]*\n\|(?:-+:?\|)+\n((?:\|[^\n]*\n)*)", re.MULTILINE)
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")


def script(file: Path) -> ModuleType:
    """Import a script of the docs folder as a module."""
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[file.stem] = module
    specification.loader.exec_module(module)
    return module


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", text_of(page))


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text_of(page)) if kind == language]


def inline(page: Path) -> list[str]:
    """The texts between backticks in a line."""
    return CODE.findall(prose(page))


def tables(page: Path) -> list[list[list[str]]]:
    """The rows of each table of a page, as lists of cells."""
    return tables_in(prose(page))


def tables_in(text: str) -> list[list[list[str]]]:
    """The rows of each table in a part of a page."""
    return [
        [[cell.strip() for cell in row.strip("|").split("|")] for row in body.splitlines()]
        for body in _TABLE.findall(text)
    ]


def links(page: Path) -> list[tuple[str, str]]:
    """Path and anchor of each link to a file of the repository; either may be empty."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page, by GitHub's rules."""
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in _HEADING.findall(prose(page))}


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of each command in a block of shell: those within `$(…)`, and each of a pipe."""
    for line in script.replace("\\\n", " ").splitlines():
        rest = COMMENT.sub("", line)
        while (inner := _SUBSTITUTION.search(rest)) is not None:
            yield from simple_commands(inner[1])
            rest = f"{rest[: inner.start()]}SUBSTITUTED{rest[inner.end() :]}"
        lexer = shlex.shlex(rest, posix=True, punctuation_chars="|;<>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words: list[str] = []
        for word in [*lexer, "|"]:
            if word not in ("|", ";"):
                words.append(word)
            elif words:
                yield words
                words = []


def uses(page: Path, program: str) -> list[list[str]]:
    """The arguments of every use of a program: in a block, through an alias, in a pod, or inline."""
    found: list[list[str]] = []
    texts = [*blocks(page, "sh"), *(code for code in inline(page) if code.startswith(f"{program} "))]
    for words in [words for text in texts for words in simple_commands(text)]:
        if words[0] == "alias":
            words = shlex.split(words[1].partition("=")[2])
        inside = words[words.index("--") + 1 :] if words[0] == "kubectl" and "--" in words else []
        found += [_until_redirected(each[1:]) for each in (words, inside) if each[:1] == [program]]
    return found


def _until_redirected(words: Sequence[str]) -> list[str]:
    return [*words[: next((n for n, word in enumerate(words) if word in ("<", ">")), len(words))]]


class Call(NamedTuple):
    """A parsed `kubectl …` command."""

    namespace: str | None
    verb: str
    arguments: list[str]  # without options
    options: list[tuple[str, str]]

    def values(self, *names: str) -> list[str]:
        """The values given to these options."""
        return [value for name, value in self.options if name in names]


def call_of(words: Sequence[str]) -> Call:
    """Parse the words after `kubectl`, up to the command that it runs in a pod."""
    own = [*words[: words.index("--")]] if "--" in words else [*words]
    arguments: list[str] = []
    options: list[tuple[str, str]] = []
    while own:
        word = own.pop(0)
        if not word.startswith("-"):
            arguments.append(word)
        elif "=" in word:
            name, _, value = word.partition("=")
            options.append((name, value))
        else:
            options.append((word, own.pop(0) if word in VALUED and own else ""))
    namespace = next((value for name, value in options if name in ("-n", "--namespace")), None)
    return Call(namespace, arguments[0] if arguments else "", arguments[1:], options)


def flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value other than a mapping, by its path such as `worker.rateLimit`."""
    if isinstance(values, dict):
        for name, inner in values.items():
            yield from flat(inner, f"{path}.{name}".lstrip("."))
    else:
        yield path, values
