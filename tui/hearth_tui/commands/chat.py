"""`hearth chat`: a conversation on a screen, line by line at a terminal, or through a pipe."""

from __future__ import annotations

import argparse
import os
import sys

from hearth_tui.chat import COMPLETIONS, Chat, describe_model, find_model
from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK
from hearth_tui.screen import make_screen
from hearth_tui.selection import select_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Who answers, and under which instructions."""
    parser.add_argument(
        "-m", "--model", help="which model answers (default: the first that is ready)"
    )
    parser.add_argument("--system", metavar="TEXT", help="instructions for the model")
    parser.add_argument(
        "--plain", action="store_true", help="line by line, without a screen; so is a pipe"
    )


def run(arguments: argparse.Namespace) -> int:
    """Talk until the user leaves, and return the exit status."""
    with open_box(arguments) as box:
        models = box.models()
        model = find_model(models, arguments.model) if arguments.model else select_model(models)
        if not arguments.plain and _has_screen():
            from hearth_tui.colours import dress
            from hearth_tui.talk.app import TalkApp
            from hearth_tui.talk.session import Session

            app = TalkApp(Session(box), model, arguments.system)
            dress(app, os.environ)
            app.run()
            return EXIT_OK
        screen = make_screen(COMPLETIONS)
        if screen.interactive:
            screen.notice(f"{describe_model(model)} · {box.address}")
            screen.notice("/help lists the commands, Ctrl-D leaves.")
        return Chat(box, screen, model, arguments.system).run()


def _has_screen() -> bool:
    """Whether both ends are a terminal that can do more than lines."""
    return (
        sys.stdin.isatty()
        and sys.stdout.isatty()
        and os.environ.get("TERM", "dumb") not in ("", "dumb")
    )
