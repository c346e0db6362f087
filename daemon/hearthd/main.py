"""`hearthd`: the only place that reads argv and the environment, and that exits."""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hearthd import __version__, log
from hearthd.config import Config, Flags, Loaded, check_openness, explain, load
from hearthd.exits import EXIT_FAILED, told

if TYPE_CHECKING:
    from hearthd.hardware.checks import PairReport
    from hearthd.selftest import Word

_OWN_ARGUMENTS = ("plan", "quantize", "simulate")
"""Words with a parser of their own: each is a module here, imported only when it is said."""

_WORDS = """\
words:
  (none)           run the daemon
  config explain   print each value of the configuration and where it came from
  config check     say whether the configuration can be used
  selftest         test each device with each backend, the daemon up or down; exit status 1: one failed
  calibrate        the same, and measure those that passed
  doctor           what commonly goes wrong here, each with what mends it; exit status 1: something does
  plan             where a model would run here, and how fast (hearthd plan --help)
  simulate         what a fleet that is not here would do (hearthd simulate --help)
  quantize         write a model in fewer bits, and compare (hearthd quantize --help)
  version          print the version

Without a model in the configuration or on the command line, the built-in "canary" is served.

  hearthd --model qwen=/models/qwen2.5-0.5b.gguf --set models.qwen.context=8192
"""


class OwnWord(Protocol):
    """What such a module has."""

    def main(self, argv: Sequence[str]) -> int:
        """Do what comes after the word; returns the exit status, raises HearthError."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what argv says; returns the exit status: 0, 1 (it failed), 2 (argv or configuration)."""
    given = sys.argv[1:] if argv is None else argv
    return told(lambda: _do(list(given)))


def _do(given: list[str]) -> int:
    if given and given[0] in _OWN_ARGUMENTS:
        own = cast(OwnWord, import_module(f"hearthd.{given[0]}"))
        return own.main(given[1:])
    parser = _parser()
    arguments = parser.parse_intermixed_args(given)
    words = tuple(arguments.word)
    if words == ("version",):
        sys.stdout.write(f"hearthd {__version__}\n")
        return 0
    if words == ("doctor",):  # whom a configuration that cannot be used must not stop
        from hearthd.doctor import examination

        return 0 if examination.run(_flags(arguments), as_json=arguments.json) else EXIT_FAILED
    actions = dict(_ACTIONS)
    for word in _CHECKS:
        actions[word,] = functools.partial(_check_up, word, arguments.json)
    read = functools.partial(load, _flags(arguments), os.environ, os.getuid())
    actions[()] = functools.partial(_run, read)
    if words not in actions:
        parser.error(f"unknown word {' '.join(words)!r} (see hearthd --help)")
    return actions[words](read())


def _run(read: Callable[[], Loaded], loaded: Loaded) -> int:
    """Take the sockets first: clients may connect while the rest is still being imported."""
    from hearthd.listeners import listen
    from hearthd.state import StateDirectory
    from hearthd.systemd import Notifier, take_passed_sockets

    config = loaded.config
    log.set_up(config.log.level, config.log.format)
    _check_openness(loaded)
    passed = take_passed_sockets(os.environ, os.getpid())
    with (
        StateDirectory.hold(Path(config.state)) as state,
        listen(config.listen, Path(config.socket), passed) as listeners,
        state.note(listeners.address, str(listeners.path)),
    ):
        from hearthd.life import serve
        from hearthd.machine import discover

        asyncio.run(
            serve(config, listeners, discover(config), Notifier(os.environ), lambda: _again(read))
        )
    return 0


def _again(read: Callable[[], Loaded]) -> Config:
    """The configuration as it is written now; raises ConfigError."""
    loaded = read()
    _check_openness(loaded)
    return loaded.config


def _check_up(word: Word, as_json: bool, loaded: Loaded) -> int:
    from hearthd import selftest
    from hearthd.machine import discover

    log.set_up("error", "text")
    config = loaded.config
    hear: Callable[[PairReport], None] = (lambda _report: None) if as_json else selftest.write_text
    report = asyncio.run(selftest.check_up(config, discover(config).devices, word, hear))
    if as_json:
        selftest.write_json(report)
    for problem in report.problems:
        sys.stderr.write(f"hearthd: {problem}\n")
    if not report.reports:
        sys.stderr.write("hearthd: no backend can use a device here\n")
    return 0 if report.passed else EXIT_FAILED


def _explain(loaded: Loaded) -> int:
    rows = explain(loaded)
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for row in rows:
        sys.stdout.write(f"{row.key:<{widths[0]}}  {row.value:<{widths[1]}}  {row.source}\n")
    return 0


def _check_openness(loaded: Loaded) -> None:
    from hearthd.access.stored import count

    check_openness(loaded.config, loaded.values, count(Path(loaded.config.state)))


def _check(loaded: Loaded) -> int:
    _check_openness(loaded)
    sys.stdout.write(f"the configuration is good; models: {_names(loaded.config)}\n")
    return 0


def _names(config: Config) -> str:
    return ", ".join(config.models)


_CHECKS: tuple[Word, ...] = ("selftest", "calibrate")
_ACTIONS: dict[tuple[str, ...], Callable[[Loaded], int]] = {
    ("config", "explain"): _explain,
    ("config", "check"): _check,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hearthd",
        description="Serves language models on this machine through an OpenAI-compatible API.",
        epilog=_WORDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("word", nargs="*", help="what to do (see below)")
    parser.add_argument("--version", action="version", version=f"hearthd {__version__}")
    parser.add_argument(
        "--config", metavar="FILE", help="read this file and conf.d/*.toml beside it"
    )
    parser.add_argument(
        "--model", metavar="NAME=PATH", action="append", default=[],
        help="serve a model under a name; may be repeated",
    )  # fmt: skip
    parser.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:4327; port 0: any")
    parser.add_argument("--socket", metavar="PATH", help="the Unix socket with the same API")
    parser.add_argument("--state", metavar="DIR", help="where the daemon keeps what it knows")
    parser.add_argument(
        "--json", action="store_true", help="of doctor, selftest and calibrate: print JSON"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="any key of the configuration, e.g. models.qwen.context=8192; may be repeated",
    )  # fmt: skip
    return parser


def _flags(arguments: argparse.Namespace) -> Flags:
    return Flags(
        config=arguments.config,
        models=arguments.model,
        listen=arguments.listen,
        socket=arguments.socket,
        state=arguments.state,
        settings=arguments.settings,
    )
