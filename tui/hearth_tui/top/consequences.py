"""Consequences: what follows when an operator does something to a model; pure words."""

from __future__ import annotations

from hearth_tui import figures
from hearth_tui.top.types import WatchedModel


def consequence(operation: str, model: WatchedModel) -> tuple[str, str]:
    """A question, and what a yes means."""
    details = model.hearth
    n_running, n_waiting = details.n_running or 0, details.n_waiting or 0
    match operation:
        case "unload":
            text = (
                f"It takes no more requests; {n_running} that run and {n_waiting} that wait have 30 s. Then "
                f"its engine ends and {figures.data_size(details.engine_rss_bytes)} are free. No request "
                "loads it again: an operator does."
            )
        case "drain":
            text = f"It takes no more requests, finishes {n_running + n_waiting} and stays loaded."
        case "pin":
            text = "It cannot be unloaded until it is unpinned, or the daemon is restarted."
        case "unpin":
            text = "It can be unloaded again."
        case _:
            text = "It takes requests, with a new engine where there is none."
    return f"{operation.capitalize()} {model.name}?", text
