"""Which model answers when nobody named one."""

from __future__ import annotations

from collections.abc import Sequence

from hearth_tui.errors import NoModel
from hearth_tui.types import Model


def select_model(models: Sequence[Model]) -> Model:
    """The first model that is ready, or else the first that is on its way; raises NoModel.

    A model of unknown state counts as ready: other servers of the same API tell no state. The box
    lets a request wait while its model loads.
    """
    for states in (("ready", None), ("loading", "restarting")):
        for model in models:
            if model.hearth.state in states:
                return model
    if not models:
        raise NoModel("the box has no models")
    reasons = "; ".join(
        f"{m.id} {m.hearth.state}: {m.hearth.error or 'no reason given'}" for m in models
    )
    raise NoModel(f"no model is ready ({reasons})")
