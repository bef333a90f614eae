"""`docs/chart_values.py` makes tables of a values file, and the chart's README has those of the current values."""

from __future__ import annotations

from types import ModuleType

import pytest
import yaml
from pages import script, tables, text_of
from rendering import CHART, ROOT

VALUES = CHART / "values.yaml"
README = CHART / "README.md"

SAMPLE = """
# The file.

# -- What stands alone: a | b.
alone: ""
# What they are.
# All of them.
parts:
  # -- How many.
  # At least one.
  count: 2
  nodeSelector: {}
  # -- Why it is here.
  tolerations: []
  # -- The secret.
  secret:
    value: ""
    existingSecret: x
  # -- Reach.
  reach:
    enabled: true
    # -- How far.
    far: [1, 2]
"""
MADE = r"""
| Value | Default | |
|---|---|---|
| `alone` |  | What stands alone: a \| b. |

### parts

What they are. All of them.

| Value | Default | |
|---|---|---|
| `parts.count` | `2` | How many. At least one. |
| `parts.tolerations` | `[]` | Why it is here. |
| `parts.secret` | `{value: '', existingSecret: x}` | The secret. |
| `parts.reach` | | Reach. |
| `parts.reach.enabled` | `true` |  |
| `parts.reach.far` | `[1, 2]` | How far. |
"""


@pytest.fixture(scope="module")
def chart_values() -> ModuleType:
    return script(ROOT / "docs/chart_values.py")


def test_the_comments_of_a_values_file_become_tables(chart_values: ModuleType):
    assert chart_values.tables(SAMPLE).strip() == MADE.strip()


def test_a_values_file_that_is_not_a_mapping_is_refused(chart_values: ModuleType):
    with pytest.raises(TypeError, match="a values file is a mapping"):
        chart_values.tables("- a\n")


def test_the_readme_has_the_tables_of_the_current_values(chart_values: ModuleType):
    made = chart_values.tables(text_of(VALUES))
    assert f"{chart_values.BEGIN}\n{made}\n{chart_values.END}" in text_of(README), (
        "python docs/chart_values.py --write puts them there"
    )


def test_the_tables_leave_out_only_the_values_that_every_component_has(chart_values: ModuleType):
    named = {row[0].strip("`") for table in tables(README) for row in table}
    readme = text_of(README)

    def check(values: dict[str, object], path: str) -> None:
        for key, value in values.items():
            name = f"{path}{key}"
            if isinstance(value, dict) and value and name not in named:
                check(value, f"{name}.")
            elif key in chart_values.ALIKE and name not in named:
                assert f"`{key}`" in readme
            else:
                assert name in named

    check(yaml.safe_load(text_of(VALUES)), "")
