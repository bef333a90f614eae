from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHES = sorted(file.stem for file in (ROOT / "bench").glob("*.py") if "\ndef parser()" in file.read_text())
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.py"), *ROOT.glob("*.md")]

# Of each bench its help, and of the commands those that it refuses; one process imports them all.
_ASK = """
import importlib, json, shlex, sys
benches, commands = json.load(sys.stdin)
parsers = {bench: importlib.import_module(bench).parser() for bench in benches}
refused = []
for bench, arguments in commands:
    try:
        parsers[bench].parse_args(shlex.split(arguments))
    except SystemExit:
        refused.append(f"{bench} {arguments}")
json.dump([{bench: parser.format_help() for bench, parser in parsers.items()}, refused], sys.stdout)
"""


def commands() -> list[tuple[str, str]]:
    """Each `bench/<name>.py …` that a page, a docstring or the Makefile names, with its arguments."""
    found = [
        (bench, arguments.split("  ")[0].strip())
        for page in PAGES
        for bench, arguments in re.findall(r"bench/(\w+)\.py((?: +(?:--|\d)[\w ./,-]+)?)", page.read_text())
    ]
    return sorted({(bench, arguments) for bench, arguments in found if bench in BENCHES})


def test_make_bench_runs_every_bench():
    planned = subprocess.run(
        ["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {bench for bench in BENCHES if re.search(rf"\b{bench}\b", planned)} == set(BENCHES)


def test_each_help_says_what_is_measured_and_takes_every_command_that_a_page_names():
    """
    The help is the bench's docstring with its examples; a command in a page, a docstring or the Makefile parses.
    """
    named = commands()
    assert len(named) > len(BENCHES)
    ended = subprocess.run(
        [sys.executable, "-c", _ASK],
        cwd=ROOT / "bench", input=json.dumps([BENCHES, named]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    helps, refused = json.loads(ended.stdout)
    assert refused == []
    for bench, text in helps.items():
        assert f"python bench/{bench}.py" in text
        assert "--json FILE" in text


def test_no_page_names_a_bench_that_is_not_there():
    named = {name for page in PAGES for name in re.findall(r"\bbench/(\w+)\.py", page.read_text())}
    assert {name for name in named if not (ROOT / "bench" / f"{name}.py").exists()} == set()
