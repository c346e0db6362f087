"""SimOptions: what a "sim:" path says about the simulated model, parsed strictly."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches

from hearth_backends.errors import ModelFileError

VARIANTS = ("blocks", "slots", "cells", "states")
SAYINGS = ("noise", "echo")
TASKS = ("generate", "embed", "rerank")
N_CONTROL = 4
"""Control tokens after the 256 bytes."""


@dataclass(frozen=True, slots=True)
class SimOptions:
    """The simulated model, how it is run, and what goes wrong with it; 0 and "" mean: not at all."""

    variant: str = "blocks"  # which store keeps its key-value memory
    depth: int = 0  # steps that may be submitted before the last one's tokens are known
    mixed: int = -1  # prompts and decoding in one batch; -1: as the variant does
    wants: int = 0  # wanted rows in a batch at most
    saturating: int = 0  # rows of prompts from which more cost in proportion; 0: unknown
    adapters: int = 0  # LoRA adapters in a batch at most
    states: int = 32  # saved states that the "states" variant has room for
    vocab: int = 300
    layers: int = 4
    context: int = 4096
    seed: int = 1
    task: str = "generate"  # "embed": texts become vectors; "rerank": pairs become scores
    dim: int = 32  # of those vectors
    says: str = "noise"  # "echo": repeats the user's last message, or the first line of a text
    bos: int = 0  # whether texts begin with a BOS token
    latency_ms: float = 0.0  # real time that a step takes
    load_seconds: float = 0.0  # real time that a load takes
    fail_load: str = ""  # the reason a load fails for
    die_on: str = ""  # the process kills itself while it loads on this device
    fail_every: int = 0  # every n-th step fails, half of them after everything was computed
    starve_every: int = 0  # every n-th step finds no room
    die_after: int = 0  # the process kills itself after n steps
    hang_after: int = 0  # steps never come back after n

    @property
    def is_mixed(self) -> bool:
        """Whether prompts and decoding share a batch; slots do not unless told to."""
        return bool(self.mixed) if self.mixed >= 0 else self.variant != "slots"


_RANGES: dict[str, tuple[float, float]] = {
    "depth": (0, 1),
    "mixed": (-1, 1),
    "vocab": (256 + N_CONTROL, 65536),
    "layers": (1, 256),
    "dim": (1, 8192),
    "context": (16, 1 << 20),
    "bos": (0, 1),
}
_CHOICES = {"variant": VARIANTS, "says": SAYINGS, "task": TASKS}


def parse_options(path: str) -> SimOptions:
    """The options of a path "sim:name=value,..."; raises ModelFileError for what it does not know."""
    values: dict[str, str | int | float] = {}
    for part in filter(None, path.removeprefix("sim:").split(",")):
        name, equals, text = part.partition("=")
        name = name.strip()
        if not equals:
            raise ModelFileError(f"{path}: {part!r} is not of the form name=value")
        values[name] = _parse(path, name, text.strip())
    return SimOptions(**values)  # type: ignore[arg-type]  # _parse gave each the type of its field


def _parse(path: str, name: str, text: str) -> str | int | float:
    kinds = {field.name: field.type for field in fields(SimOptions)}
    if name not in kinds:
        nearest = get_close_matches(name, kinds, 1, cutoff=0.0)[0]
        raise ModelFileError(f"{path}: unknown option {name!r}; did you mean {nearest!r}?")
    if kinds[name] == "str":
        allowed = _CHOICES.get(name)
        if allowed and text not in allowed:
            raise ModelFileError(f"{path}: {name} is one of {', '.join(allowed)}, not {text!r}")
        return text
    try:
        number = int(text) if kinds[name] == "int" else float(text)
    except ValueError as error:
        raise ModelFileError(f"{path}: {name} is a number, not {text!r}") from error
    least, most = _RANGES.get(name, (0, float("inf")))
    if not least <= number <= most:
        raise ModelFileError(f"{path}: {name} is between {least:g} and {most:g}, not {text}")
    return number
