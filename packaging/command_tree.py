"""The command lines of the package as argparse knows them: what the manual and the completions are made of."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from importlib import import_module

from hearth_tui import cli
from hearthd import main, plan, quantize, simulate

_DAEMON_WORDS = {
    "config explain": "print each value of the configuration and where it came from",
    "config check": "say whether the configuration can be used",
    "doctor": "find what is wrong with this machine, and what mends it",
    "selftest": "test each device with each backend",
    "calibrate": "test devices, and measure those that passed",
    "plan": "say where a model would run, and how fast",
    "simulate": "say what a fleet would do with a trace of requests",
    "quantize": "write a model in fewer bits, and compare",
    "version": "print the version",
}


@dataclass(frozen=True)
class Command:
    """One program, or one word of it, with its options and the words below it."""

    name: str
    does: str
    parser: argparse.ArgumentParser
    words: tuple[Command, ...] = field(default=())


def hearthd() -> Command:
    """The daemon; most of its words share its options."""
    bare = argparse.ArgumentParser
    own = {"quantize": quantize._parser, "plan": plan.parser, "simulate": simulate.parser}
    words = [
        Command(
            f"hearthd {word}",
            does,
            own[word]() if word in own else bare(prog=f"hearthd {word}", add_help=False),
        )
        for word, does in _DAEMON_WORDS.items()
    ]
    return Command(
        "hearthd", "the daemon of Hearth, an LLM appliance", main._parser(), tuple(words)
    )


def hearth() -> Command:
    """The command line; each word is a module."""
    words = []
    for word, does in cli.COMMANDS.items():
        parser = cli._command_parser(word)
        import_module(f"hearth_tui.commands.{word}").add_arguments(parser)
        words.append(Command(f"hearth {word}", does, parser))
    return Command("hearth", "talk to a Hearth box", cli._parser(), tuple(words))


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its arguments, without those that are kept from the user's eyes."""
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]
