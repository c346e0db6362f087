"""What can be done in `hearth top`."""

from __future__ import annotations

from typing import Final

from hearth_tui.actions import Action

OPERATIONS: Final = (
    Action("load", ("l",), "Load", "Load the chosen model, or let it take requests again", needs_operator=True),
    Action("unload", ("u",), "Unload", "End the chosen model's engine and free its memory", needs_operator=True),
    Action("drain", ("d",), "Drain", "Let the chosen model finish what it has and take nothing new", needs_operator=True),
    Action("pin", ("p",), "Pin", "Keep the chosen model from being unloaded, or no longer", needs_operator=True),
    Action("cancel", ("c",), "Cancel", "End the chosen request; its client is told", needs_operator=True),
)  # fmt: skip

PANES: Final = ("requests", "cache", "batches", "alerts", "log")

ACTIONS: Final = (
    *OPERATIONS,
    Action("details", ("i",), "Info", "All that is known of the chosen row"),
    *(
        Action(f"pane('{pane}')", (str(number),), pane, f"Show {pane}", in_footer=False)
        for number, pane in enumerate(PANES, 1)
    ),
    Action("order", ("o",), "Order", "Order frequent queries by count or by time saved", in_footer=False),
    Action("next", ("tab",), "Next", "Go to the next table", in_footer=False),
    Action("help", ("question_mark", "f1"), "Help", "This list"),
    Action("command_palette", ("ctrl+p",), "Palette", "Find an action by its name", in_footer=False),
    Action("quit", ("q", "ctrl+c"), "Quit", "Leave; the box goes on", first=False),
)  # fmt: skip
