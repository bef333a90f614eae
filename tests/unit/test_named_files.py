"""The pages, the chart, the image and the code name only modules, scripts and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import anchors, links, text_of

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "deploy/helm/README.md", ROOT / "docker/README.md"]
)
NAMING = [
    *PAGES,
    *(file for file in ROOT.glob("deploy/**/*") if file.suffix in (".yaml", ".tpl", ".txt", ".conf", ".sh")),
    *(file for file in ROOT.glob("docker/*") if file.is_file()),
    *(
        file
        for folder in ("ifinu", "bench")
        for suffix in ("py", "lua")
        for file in ROOT.glob(f"{folder}/**/*.{suffix}")
    ),
]
FOREIGN = {"flowerconfig.py"}  # Flower's configuration, which `ifinu flower` does not read

_NAME = re.compile(r"(?<![\w./<>*{}-])[\w./-]*\w\.(?:py|lua)\b(?![\w(<*-])")


def missing(text: str) -> set[str]:
    """
    The modules and scripts that a text names and the tree does not have.

    A name with a folder is a path from the root or from `ifinu/`; one without may be in any of our folders.
    """
    folders = [ROOT / folder for folder in ("ifinu", "tests", "docs", "bench")]
    return {
        name
        for name in set(_NAME.findall(text)) - FOREIGN
        if not ((ROOT / name).exists() or (ROOT / "ifinu" / name).exists())
        and ("/" in name or not any(any(folder.rglob(name)) for folder in folders))
    }


@pytest.mark.parametrize("file", NAMING, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_and_script_named_exists(file: Path):
    assert missing(text_of(file)) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize(
    "gone", ["broker/holders.py", "ifinu/broker/holders.py", "exhume.lua", "tests/unit/test_gone.py"]
)
def test_a_file_that_is_not_there_is_named(gone: str):
    assert missing(f"See `{gone}` and `broker/leases.py`, which fetch.lua fills.") == {gone}
