"""
The templates of one tenant, or of all tenants without their own: found, compiled and tried at the start.

    <folder>/lembrete.txt.j2            in place of the one here
    <folder>/como_pagar.txt.j2          a part that templates include, likewise
    <folder>/u1/vencimento.txt.j2       for the tenant u1 alone; what it lacks is taken from the folder, then from here
    <folder>/lembrete.meta.json         Meta's template for it, on the channel BUSINESS (`meta_templates.py`)
    <folder>/lojas%2Fcentro/…           for the tenant lojas/centro: percent-encoded where no folder can be called so

A tenant's name never becomes a path: folders are listed once, and a tenant is looked up among the names found. Names
that begin with a dot are not read, since Kubernetes keeps its own there.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jinja2
from jinja2 import meta, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ifinu import damage
from ifinu.errors import ConfigurationError
from ifinu.notification import Kind
from ifinu.render import meta_templates
from ifinu.render.meta_templates import MetaTemplate

SUFFIX = ".txt.j2"
LONGEST_TEXT = 4096  # characters that WhatsApp takes in one message

# What a template may do wrong with a particular value, beside what Jinja itself reports.
TEMPLATE_FAULTS = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError)

_OURS = Path(__file__).parent / "templates"
_KINDS = [kind.value for kind in Kind]
_FILES = {kind.value + SUFFIX: kind for kind in Kind}
_FILES_OF_META = {kind.value + meta_templates.SUFFIX: kind for kind in Kind}


class BrokenTemplates(ConfigurationError):  # noqa: N818 - the vocabulary of `errors.py`
    """
    Templates are wrong.

    Attributes:
        problems: All of them, each with its file and, where there is one, its line.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class _Absent(jinja2.StrictUndefined):
    """A value the notification lacks: false in a condition, an error anywhere else."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override] # Jinja declares the one that always raises
        return False


class Environment(ImmutableSandboxedEnvironment):
    """Jinja in its sandbox, for plain text; what is lacking is false, and an error where it is printed."""

    def __init__(self, loader: jinja2.BaseLoader | None) -> None:
        super().__init__(
            loader=loader,
            undefined=_Absent,
            autoescape=False,  # an escaped & would reach the phone as &amp;
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )

    def make_globals(self, d: Mapping[str, Any] | None) -> dict[str, Any]:
        # Each rendering copies it. A copy of Jinja's chain of dictionaries takes as long as the rendering itself.
        return {**self.globals, **(d or {})}


class TemplateSet:
    """
    One template for each kind.

    Args:
        folders: Where they are looked for, the first one first; those here come last.
        samples: A complete set of values for each kind, to try a template with.
        names: Of all values that there may be.
        inherited: What holds for the kinds that the first folder says nothing of.
    """

    def __init__(
        self,
        folders: tuple[Path, ...],
        samples: Mapping[Kind, Mapping[str, object]],
        names: frozenset[str],
        inherited: TemplateSet | None = None,
    ) -> None:
        self._samples = samples
        self._names = names
        self._environment = Environment(jinja2.FileSystemLoader([*folders, _OURS]))
        self.problems: list[str] = []
        # The templates that it includes; None where that is decided at rendering.
        self.included: set[str | None] = set() if inherited is None else set(inherited.included)
        self.templates: dict[Kind, jinja2.Template] = {} if inherited is None else dict(inherited.templates)
        self.of_meta: dict[Kind, MetaTemplate] = {} if inherited is None else dict(inherited.of_meta)
        files = sorted(_files(folders[0] if folders else _OURS))
        for path in files:
            if path.name.endswith(SUFFIX):
                self._check(path)
            elif path.name in _FILES_OF_META:
                self._take_of_meta(path, _FILES_OF_META[path.name])
        files = [path for path in files if path.name not in _FILES_OF_META]
        self._others = [path for path in files if path.name not in _FILES]
        if not self.problems:
            # Any template may include a part, so a folder with a part is checked with the templates of all kinds.
            for kind in Kind if inherited is None or self._others else [_FILES[path.name] for path in files]:
                self._take(kind)

    def unread(self, elsewhere: set[str | None]) -> Iterator[str]:
        """
        Say which files of the folder nothing reads, most likely because of a misspelt name.

        Args:
            elsewhere: What templates of other folders include, by its path from the folder of all.
        """
        included = self.included | {name and name.rpartition("/")[2] for name in elsewhere}
        if None in included:  # by a name that is worked out when it is rendered
            return
        for path in self._others:
            first = path.name.partition(".")[0].lower()
            close = difflib.get_close_matches(first, _KINDS, n=1)
            if path.name.endswith(SUFFIX) and path.name not in included:
                hint = f"did you mean {close[0]}{SUFFIX}?" if close else f"the kinds are {', '.join(Kind)}"
                yield f"{path}: is no kind's template, and none includes it; {hint}"
            elif not path.name.endswith(SUFFIX) and first in _KINDS:
                yield f"{path}: is not read; a template is called {first}{SUFFIX}"

    def _take(self, kind: Kind) -> None:
        try:
            template = self._environment.get_template(kind.value + SUFFIX)
            text = template.render(self._samples[kind]).strip()
        except TEMPLATE_FAULTS as exc:
            frames = [f for f in traceback.extract_tb(exc.__traceback__) if f.filename.endswith(SUFFIX)]
            place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else kind.value + SUFFIX
            self._report(f"{place}: {exc}")
            return
        if not 0 < len(text) <= LONGEST_TEXT:
            self._report(f"{template.filename}: its text has {len(text)} characters, not 1 to {LONGEST_TEXT}")
            return
        self.templates[kind] = template

    def _take_of_meta(self, path: Path, kind: Kind) -> None:
        try:
            self.of_meta[kind] = MetaTemplate(path, self._environment, self._names)
        except OSError as exc:
            self._report(f"{path}: {exc.strerror}")
        except TEMPLATE_FAULTS as exc:  # JSON's errors are ValueErrors
            self._report(f"{path}: {exc}")

    def _check(self, path: Path) -> None:
        """See that it can be read, is a template, names values that there are, and holds no damage."""
        try:
            self._environment.get_template(path.name)  # which keeps it compiled for the kinds
            tree = self._environment.parse(path.read_text(encoding="utf-8"), path.name, str(path))
        except OSError as exc:
            self._report(f"{path}: {exc.strerror}")
        except UnicodeDecodeError as exc:
            self._report(f"{path}: is not UTF-8, at byte {exc.start}")
        except jinja2.TemplateSyntaxError as exc:
            self._report(f"{path}:{exc.lineno}: {exc.message}")
        else:
            self.included |= set(meta.find_referenced_templates(tree))
            for lineno, problem in mistakes(tree, self._names):
                self._report(f"{path}:{lineno}: {problem}")

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def mistakes(tree: nodes.Template, names: Set[str]) -> Iterator[tuple[int, str]]:
    """
    Find values that there are not, and damage, in a template: the line and the problem of each.

    Args:
        names: Of all values that there may be.
    """
    unknown = meta.find_undeclared_variables(tree) - names - DEFAULT_NAMESPACE.keys()
    for node in tree.find_all(nodes.Name):
        if node.name in unknown:
            close = difflib.get_close_matches(node.name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(names))}"
            yield node.lineno, f"no value is called {node.name}; {hint}"
    for data in tree.find_all(nodes.TemplateData):
        for number, line in enumerate(data.data.split("\n")):
            try:
                damage.refuse_in_template(line)
            except ValueError as exc:
                yield data.lineno + number, str(exc)


def wordings(
    folder: Path | None, samples: Mapping[Kind, Mapping[str, object]], names: frozenset[str]
) -> tuple[TemplateSet, dict[str, TemplateSet]]:
    """
    Find the templates of all, and those of each tenant that has some.

    Args:
        folder: `IFINU_TEMPLATES`; None for ours alone.

    Raises:
        ConfigurationError: The folder cannot be read.
        BrokenTemplates: Naming all that is wrong in it.
    """
    ours = TemplateSet((), samples, names)
    if folder is None:
        return ours, {}
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such directory of templates")
    try:
        of_all = TemplateSet((folder,), samples, names, ours)
        found = {
            tenant: TemplateSet((path, folder), samples, names, of_all) for tenant, path in _tenants(folder).items()
        }
    except OSError as exc:
        raise ConfigurationError(f"{exc.filename}: {exc.strerror}") from exc
    every = [of_all, *found.values()]
    problems = [problem for wording in every for problem in wording.problems]
    if not problems:  # what a broken template includes is not known
        elsewhere = set[str | None]().union(*(wording.included for wording in every))
        problems = [problem for wording in every for problem in wording.unread(elsewhere)]
    if problems:
        raise BrokenTemplates(list(dict.fromkeys(problems)))
    return of_all, found


def source_of(template: Any) -> str:
    """Name the file that a template was read from; `ifinu` for one of ours."""
    path = Path(str(template.filename))
    return "ifinu" if path.parent == _OURS else str(path)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]


def _tenants(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        tenant = unquote(path.name)
        if tenant in found:
            raise ConfigurationError(f"{path}: is the same tenant's as {found[tenant]}; keep one of them")
        if any(file.name.endswith(SUFFIX) or file.name.partition(".")[0].lower() in _KINDS for file in _files(path)):
            found[tenant] = path
    return found
