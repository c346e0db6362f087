"""docs/terminal.md names every key of both screens and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hearth_tui.actions import Action
from hearth_tui.talk.actions import ACTIONS as TALK
from hearth_tui.top.actions import ACTIONS as TOP

PAGE = (Path(__file__).parents[2] / "docs" / "terminal.md").read_text()


@pytest.mark.parametrize(
    ("heading", "actions"), [("## `hearth top`", TOP), ("## `hearth chat`", TALK)]
)
def test_every_action_is_documented(heading: str, actions: Sequence[Action]) -> None:
    section = PAGE.split(heading)[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [row.split(" (operators)")[0].removesuffix(" |") for row in rows] == [
        f"| `{action.key_names}` | {action.does}" for action in actions
    ]
