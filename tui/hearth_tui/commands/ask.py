"""`hearth ask`: one question, and the answer as it comes."""

from __future__ import annotations

import argparse
import math
import sys

import msgspec

from hearth_tui import figures
from hearth_tui.answer import Answer, whole_answer
from hearth_tui.client import Client
from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK
from hearth_tui.output import TextOutput
from hearth_tui.prompt import read_prompt
from hearth_tui.selection import select_model
from hearth_tui.stream import stream_answer
from hearth_tui.types import ChatRequest, Message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The question and how to sample its answer."""
    parser.add_argument(
        "prompt",
        nargs="*",
        metavar="PROMPT",
        help="the question; piped input follows it, - is only that",
    )
    parser.add_argument(
        "-m", "--model", metavar="M", help="which model answers (default: the first that is ready)"
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="instructions that come before the question"
    )
    parser.add_argument(
        "--max-tokens", metavar="N", type=_positive, help="length of the answer at most"
    )
    parser.add_argument("--temperature", metavar="T", type=_temperature, help="0 is greedy")
    parser.add_argument(
        "--seed", metavar="N", type=_seed, help="the same seed gives the same answer"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of the text"
    )
    parser.add_argument(
        "--no-stream", action="store_true", help="print the answer once it is whole"
    )
    parser.add_argument(
        "--stats", action="store_true", help="say on standard error how fast it came"
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask, print, and return the exit status."""
    prompt = read_prompt(arguments.prompt, sys.stdin)
    with open_box(arguments) as box:
        request = ChatRequest(
            model=arguments.model or _default_model(box),
            messages=_messages(arguments.system, prompt),
            max_tokens=arguments.max_tokens,
            temperature=arguments.temperature,
            seed=arguments.seed,
        )
        answer = _answer(box, request, stream=not arguments.no_stream, show=not arguments.json)
    if arguments.json:
        print(msgspec.json.encode(answer).decode())
    if arguments.stats:
        sys.stdout.flush()
        print(figures.speed(answer), file=sys.stderr)
    return EXIT_OK


def _answer(box: Client, request: ChatRequest, *, stream: bool, show: bool) -> Answer:
    with TextOutput(sys.stdout) as output:
        write = output.write if show else _ignore
        if stream:
            return stream_answer(box, request, write)
        answer = whole_answer(box.complete(request))
        write(answer.text)
        return answer


def _default_model(box: Client) -> str:
    model = select_model(box.models())
    if model.hearth.state not in (None, "ready") and sys.stderr.isatty():
        print(
            f"{model.id}: {figures.state(model.hearth)}; the answer waits for it", file=sys.stderr
        )
    return model.id


def _messages(system: str | None, prompt: str) -> list[Message]:
    before = [] if system is None else [Message("system", system)]
    return [*before, Message("user", prompt)]


def _ignore(text: str) -> None:
    """For who wants the whole answer only."""


def _positive(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a number of tokens")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} has more than 64 bits")
    return number


def _temperature(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a temperature: 0 or more")
    return number
