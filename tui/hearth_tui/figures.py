"""Numbers and states as people read them; what is not known is a dash."""

from __future__ import annotations

from collections.abc import Sequence

from hearth_tui.answer import Answer
from hearth_tui.types import ModelDetails, ModelReadiness, Place, PlanInForce

UNKNOWN = "-"


def plan(found: PlanInForce) -> str:
    """ "cuda:0 cuda layers 0-11 (3.1 GiB) | cpu:0 gguf layers 12-23 (2.9 GiB), planned for latency"."""
    places = " | ".join(_place(place) for place in found.places)
    return f"{places}, {found.why}" if found.why else places


def _place(place: Place) -> str:
    words = [place.device, *([] if place.backend is None else [place.backend])]
    if place.layers is not None:
        words.append(f"layers {place.layers[0]}-{place.layers[1] - 1}")
    if place.planned_bytes is not None:
        words.append(f"({data_size(place.planned_bytes)})")
    return " ".join(words)


def or_dash(value: object) -> str:
    """The value, or a dash."""
    return UNKNOWN if value is None else str(value)


def count(number: int | None) -> str:
    """At most four characters and a letter: 812, 1.5k, 494M, 7.6B."""
    return UNKNOWN if number is None else _scaled(number, 1000, ("", "k", "M", "B", "T"))


def data_size(n_bytes: int | None) -> str:
    """In binary units: 812 B, 1.5 GiB."""
    units = (" B", " KiB", " MiB", " GiB", " TiB")
    return UNKNOWN if n_bytes is None else _scaled(n_bytes, 1024, units)


def duration(seconds: float | None) -> str:
    """In the unit that suits: 84 ms, 2.31 s."""
    if seconds is None:
        return UNKNOWN
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def state(model: ModelDetails | ModelReadiness) -> str:
    """The state, with how far the load is."""
    if model.state is None:
        return UNKNOWN
    if model.state in ("loading", "restarting") and model.progress is not None:
        return f"{model.state} {model.progress:.0%}"
    return model.state


def room(model: ModelDetails) -> str:
    """Tokens of one sequence by sequences at once: 2048 x 16."""
    if model.context is None and model.concurrency is None:
        return UNKNOWN
    return f"{or_dash(model.context)} x {or_dash(model.concurrency)}"


def draft(model: ModelDetails) -> str:
    """Which model guesses for it, or why it does no more."""
    if model.draft_failure is not None:
        return f"{or_dash(model.draft)} guesses no more: {model.draft_failure}"
    return f"{or_dash(model.draft)} guesses for it"


def short_digest(digest: str | None) -> str:
    """Enough of a digest to tell models apart; the name of the hash is left out."""
    return UNKNOWN if digest is None else digest.rpartition(":")[2][:8]


def share(part: int | None, whole: int | None) -> str:
    """A part of a whole: 1.5k/3k."""
    return count(part) if whole is None else f"{count(part)}/{count(whole)}"


def speed(answer: Answer) -> str:
    """One line on how an answer came."""
    parts = [f"first token {duration(answer.ttft_seconds)}"]
    if answer.usage is not None:
        parts.append(_plural(answer.usage.completion_tokens, "token"))
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tokens/s")
    if answer.usage is not None:
        parts.append(_prompt(answer))
    if answer.finish_reason == "length":
        parts.append("cut at the length limit")
    return " · ".join(parts)


def _prompt(answer: Answer) -> str:
    usage = answer.usage
    if usage is None:
        return ""
    text = f"prompt {_plural(usage.prompt_tokens, 'token')}"
    details = usage.prompt_tokens_details
    if details is not None and details.cached_tokens:
        text += f" ({details.cached_tokens} cached)"
    return text


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _scaled(number: int, base: int, units: Sequence[str]) -> str:
    value = float(number)
    for unit in units[:-1]:
        if abs(value) < base - 0.5:
            return _digits(value, unit != units[0]) + unit
        value /= base
    return _digits(value, True) + units[-1]


def _digits(value: float, scaled: bool) -> str:
    text = f"{value:.1f}" if scaled and abs(value) < 99.95 else f"{value:.0f}"
    return text.removesuffix(".0")
