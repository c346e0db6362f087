"""What can be done in `hearth chat`."""

from __future__ import annotations

from typing import Final

from hearth_tui.actions import Action

ACTIONS: Final = (
    Action("send", ("enter",), "Send", "Send what was written (Ctrl-J begins a new line)", in_footer=False),
    Action("stop", ("escape", "ctrl+c"), "Stop", "Stop the answer; what came of it stays", first=True),
    Action("retry", ("ctrl+r",), "Retry", "Ask the last question again", first=True),
    Action("edit", ("ctrl+b",), "Edit", "Take the last question back and write it anew", first=True),
    Action("model", ("ctrl+o",), "Model", "Let another model answer", first=True),
    Action("instruct", ("ctrl+t",), "Instruct", "Instructions for the model (the system prompt)", first=True),
    Action("save", ("ctrl+s",), "Save", "Write the conversation down: JSON for .json, else Markdown", first=True),
    Action("load", ("ctrl+l",), "Load", "Go on with a conversation that was saved as JSON", first=True),
    Action("new", ("ctrl+n",), "New", "Forget what was said; instructions stay", first=True, in_footer=False),
    Action("copy", ("ctrl+g",), "Copy", "Copy the last answer, as it was written, to the clipboard", first=True, in_footer=False),
    Action("older", ("pageup",), "Older", "Scroll back", first=True, in_footer=False),
    Action("newer", ("pagedown",), "Newer", "Scroll on", first=True, in_footer=False),
    Action("help", ("f1",), "Help", "This list", first=True),
    Action("command_palette", ("ctrl+p",), "Palette", "Find an action by its name", in_footer=False),
    Action("quit", ("ctrl+q",), "Quit", "Leave; Ctrl-D in an empty line does too", first=True),
)  # fmt: skip
