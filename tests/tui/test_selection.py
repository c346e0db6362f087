"""Which model answers when nobody named one."""

from __future__ import annotations

import pytest

from hearth_tui.errors import NoModel
from hearth_tui.selection import select_model
from hearth_tui.types import Model, ModelDetails


def models(*states: str | None) -> list[Model]:
    return [Model(str(i), hearth=ModelDetails(state=s, error=None)) for i, s in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        (["ready", "ready"], "0"),
        (["loading", "failed", "ready"], "2"),
        (["failed", "restarting", "loading"], "1"),
        (["loading", None], "1"),
    ],
)
def test_ready_comes_before_loading(states: list[str | None], chosen: str) -> None:
    assert select_model(models(*states)).id == chosen


def test_nobody_can_answer() -> None:
    failed = [Model("m", hearth=ModelDetails(state="failed", error="truncated"))]
    with pytest.raises(NoModel, match="m failed: truncated"):
        select_model(failed)
    with pytest.raises(NoModel, match="no models"):
        select_model([])
