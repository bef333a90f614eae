"""`docs/chart_values.py`: what it makes of a values file, and that the chart's README has what it makes of ours."""

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


def test_the_comments_of_a_file_become_tables(chart_values: ModuleType):
    assert chart_values.tables(SAMPLE).strip() == MADE.strip()


def test_a_file_that_is_no_mapping_is_refused(chart_values: ModuleType):
    with pytest.raises(TypeError, match="a values file is a mapping"):
        chart_values.tables("- a\n")


def test_the_readme_has_the_tables_of_the_values_that_there_are(chart_values: ModuleType):
    made = chart_values.tables(text_of(VALUES))
    assert f"{chart_values.BEGIN}\n{made}\n{chart_values.END}" in text_of(README), (
        "python docs/chart_values.py --write puts them there"
    )


def test_no_value_is_left_out_but_what_the_readme_says_that_all_components_have(chart_values: ModuleType):
    named = {row[0].strip("`") for table in tables(README) for row in table}
    readme = text_of(README)

    def told(values: dict[str, object], path: str) -> None:
        for key, value in values.items():
            name = f"{path}{key}"
            if isinstance(value, dict) and value and name not in named:
                told(value, f"{name}.")
            elif key in chart_values.ALIKE and name not in named:
                assert f"`{key}`" in readme
            else:
                assert name in named

    told(yaml.safe_load(text_of(VALUES)), "")
