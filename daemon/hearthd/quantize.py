"""`hearthd quantize`: a model in fewer bits, and how far that is from the model; whether a daemon runs or not."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import msgspec
import psutil

from hearthd.errors import QuantizeFailed
from hearthd.exits import EXIT_INTERRUPTED
from hearthd.quantization import Compared, Failed, Made, Order, Progress, Said

LEAVE_SECONDS = 10.0
_BAR = 30

_MORE = """\
kinds:
  int4  4 bits in groups of 128 (64 or 32 where the model's sizes ask for it): smallest, fastest for few sequences
  int8  8 bits with one scale for each output: close to the original, fastest for prompts
  fp8   8-bit floats (E4M3) with one scale for each output: for GPUs that compute with them

The folder is a compressed-tensors checkpoint, with config.json and tokenizer files. The table says how far each
way of computing is from the original: KL divergence (0: the same), how often both think the same token likeliest,
perplexity (lower: less surprised by the text). What to choose: docs/quantization.md.

exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted; where it is not 0, DIR is as before
unless only the table was missing, which is then said.
"""


def main(argv: Sequence[str]) -> int:
    """Do what comes after the word `quantize`; returns the exit status, raises QuantizeFailed."""
    arguments = _parser().parse_args(argv)
    if arguments.to is None and not arguments.compare:
        _parser().error("say --to KIND -o DIR, or --compare")
    if (arguments.to is None) != (arguments.out is None):
        _parser().error("--to and -o go together")
    screen = Screen(sys.stderr.isatty())
    hear = _write_json if arguments.json else _write_text
    try:
        for said in ask(_order(arguments)):
            if isinstance(said, Progress):
                screen.progress(said)
            else:
                screen.clear()
                hear(said)
    except QuantizeFailed:
        screen.clear()
        raise
    except KeyboardInterrupt:
        screen.clear()
        sys.stderr.write("hearthd: interrupted; what was half written is deleted\n")
        return EXIT_INTERRUPTED
    return 0


def ask(order: Order) -> Iterator[Said]:
    """Everything the engine process says, as it comes; raises QuantizeFailed.

    Left early, the process is told to leave, and is waited for while it cleans up.
    """
    line = msgspec.json.encode(order).decode()
    command = [sys.executable, "-P", "-m", "hearthd.engine", "--quantize", line]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        try:
            yield from _heard(child)
        finally:
            if child.poll() is None:
                child.terminate()
                _wait(child)


def _heard(child: subprocess.Popen[bytes]) -> Iterator[Said]:
    for line in child.stdout or ():
        said: Said = msgspec.json.decode(line, type=Said)
        if isinstance(said, Failed):
            raise QuantizeFailed(said.error)
        yield said
    status = child.wait()
    if status != 0:
        raise QuantizeFailed(f"the process that quantizes ended ({_ending(status)})")


def _ending(status: int) -> str:
    if status == -9:
        return "killed: most likely the machine has too little memory for this model"
    return f"signal {-status}" if status < 0 else f"status {status}"


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


class Screen:
    """One line of progress on standard error; on what is no terminal, a line for each thing that begins."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._doing = ""

    def progress(self, told: Progress) -> None:
        """Show how far it is."""
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{bar(told)}")
        elif told.doing != self._doing:
            sys.stderr.write(f"{told.doing} ...\n")
        self._doing = told.doing
        sys.stderr.flush()

    def clear(self) -> None:
        """Make room for what stays."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")


def bar(told: Progress) -> str:
    """One line; pure."""
    done = round(told.fraction * _BAR)
    return f"[{'#' * done}{'.' * (_BAR - done)}] {told.fraction:4.0%} {told.doing}"


def text_of(said: Made | Compared) -> str:
    """Some lines for people; pure."""
    if isinstance(said, Made):
        share = said.n_bytes / said.source_bytes
        lines = [
            f"{said.out}: {said.n_bytes / 1e6:.1f} MB ({share:.0%} of {said.source_bytes / 1e6:.1f} MB), {said.scheme}, {said.method}"
        ]
        if said.kept:
            lines.append(
                f"  left as they were, their inputs being no whole groups: {_some(said.kept)}"
            )
        return "\n".join(lines) + "\n"
    return "\n".join(_table(said)) + "\n"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _table(said: Compared) -> Iterator[str]:
    yield f"against {said.reference}, {said.n_tokens} tokens, perplexity {said.perplexity:.4g}"
    width = max([len(row.name) for row in said.rows] + [4])
    yield (
        f"  {'':{width}}  mean KL   p99 KL  prompt KL  decode KL  same best  perplexity  weights MB"
    )
    for row in said.rows:
        size = "" if row.weights_bytes is None else f"{row.weights_bytes / 1e6:.1f}"
        yield (
            f"  {row.name:{width}}  {row.mean_kl:7.5f}  {row.p99_kl:7.4f}    {row.prompt_kl:7.5f}    "
            f"{row.decode_kl:7.5f}  {row.same_best:9.1%}  {row.perplexity:10.4g}  {size:>10}"
        )
    for refused in said.refused:
        yield f"  {refused.name:{width}}  not computed: {refused.reason}"


def _write_text(said: Made | Compared | Failed) -> None:
    if not isinstance(said, Failed):
        sys.stdout.write(text_of(said))
        sys.stdout.flush()


def _write_json(said: Made | Compared | Failed) -> None:
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


def _order(arguments: argparse.Namespace) -> Order:
    return Order(
        model=_absolute(arguments.model) if arguments.model != "canary" else "canary",
        out=None if arguments.out is None else _absolute(arguments.out),
        kind=arguments.to or "",
        symmetric=not arguments.asymmetric,
        group=arguments.group,
        method=arguments.method,
        calibration=None if arguments.calibration is None else _absolute(arguments.calibration),
        force=arguments.force,
        report=not arguments.no_report,
        text=None if arguments.report is None else _absolute(arguments.report),
        compare=arguments.compare,
        kinds=[kind for kind in arguments.kinds.split(",") if kind],
        rivals=[_absolute(path) for path in arguments.against],
        backend=arguments.backend,
        device=arguments.device,
        threads=arguments.threads or psutil.cpu_count(logical=False) or 1,
    )


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # keeps "..", as a shell shows it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hearthd quantize",
        description="Writes a model in fewer bits, as a checkpoint that every backend reads.",
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `hearthd quantize` takes."""
    add: Callable[..., object] = parser.add_argument
    add("model", metavar="MODEL", help='a GGUF file, the folder of a checkpoint, or "canary"')
    add("--to", metavar="KIND", choices=("int4", "int8", "fp8"), help="int4, int8 or fp8 (below)")
    add("-o", "--out", metavar="DIR", help="the folder to be made")
    add("--force", action="store_true", help="replace DIR where it is a checkpoint's folder")
    add("--group", type=int, metavar="N", help="of int4: 128, 64 or 32 inputs share a scale")
    add("--asymmetric", action="store_true", help="of int4: with a zero point for each group")
    add(
        "--method", choices=("gptq", "nearest"),
        help="of int4: rounding errors make up for each other on a text (gptq), or each number goes to the "
        "nearest; default: gptq, where the backend can look into its layers",
    )  # fmt: skip
    add("--calibration", metavar="TEXT", help="that gptq reads, not the text that comes along")
    add("--report", metavar="TEXT", help="compare on this file, not on the text that comes along")
    add("--no-report", action="store_true", help="do not compare what was made")
    add("--compare", action="store_true", help="compare every kind that the backend makes itself")
    add(
        "--kinds",
        metavar="A,B",
        default="",
        help="with --compare: only these; none: only --against",
    )
    add(
        "--against", metavar="FILE", action="append", default=[],
        help="with --compare: a GGUF file or checkpoint of the same model; may be repeated",
    )  # fmt: skip
    add("--backend", default="onnx", help="that computes what is compared (default: onnx)")
    add("--device", default="cpu:0", help="where (default: cpu:0)")
    add("--threads", type=int, metavar="N", help="default: the physical cores")
    add("--json", action="store_true", help="print lines of JSON")
