"""Lines: what `hearth top` shows, as texts made of values; pure."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.text import Text

from hearth_tui import figures
from hearth_tui.printable import one_line
from hearth_tui.top.history import History
from hearth_tui.top.types import (
    Alert,
    Batch,
    DeviceLoad,
    LogLine,
    Top,
    TopAnswer,
    UnderWay,
    WatchedModel,
)

STYLES = {
    "ready": "green",
    "loading": "yellow",
    "restarting": "yellow",
    "drained": "yellow",
    "unloading": "yellow",
    "unloaded": "dim",
    "failed": "bold red",
    "silent": "red",
    "gone": "dim",
    "critical": "bold red",
    "error": "bold red",
    "warning": "yellow",
    "info": "",
    "debug": "dim",
}
_HOUR, _MINUTE = 3600, 60
_SPARK = 12
_CLASSES = {"interactive": "inter"}
_HOT_CELSIUS = 85.0


def short_span(seconds: float) -> str:
    """A time in one unit: 8.1 s, 62 s, 5 min, 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.0f} h" if seconds < 48 * _HOUR else f"{seconds / 24 / _HOUR:.0f} d"


def device_line(device: DeviceLoad, history: History, name_columns: int) -> Text:
    """One device in one line of at most 78 columns, the least important last."""
    name = one_line(device.name)[:name_columns].ljust(name_columns)
    line = Text.assemble((name, "bold"), " ")
    if device.state not in ("ready", None):
        line.append(f"{device.state}: ", STYLES.get(device.state or "", "red"))
        line.append(one_line(device.problem or ""))
        return line
    load = "  - " if device.utilization is None else f"{device.utilization:4.0%}"
    line.append(load.rjust(4), _heat(device.utilization))
    line.append(f" {history.line(f'load {device.name}', _SPARK, 1.0)}", "cyan")
    leased, used = (
        _share(device.leased_bytes, device.budget_bytes),
        _share(device.used_bytes, device.total_bytes),
    )
    line.append(f" lease {leased:<14}")
    line.append(f"used {used:<14}", _heat(_ratio(device.used_bytes, device.total_bytes)))
    if device.temperature_celsius is not None:
        hot = "red" if device.temperature_celsius >= _HOT_CELSIUS else ""
        line.append(f" {device.temperature_celsius:.0f}°C", hot)
    if device.power_watts is not None:
        line.append(f" {device.power_watts:.0f} W")
    return line


def model_cells(model: WatchedModel) -> tuple[Text, ...]:
    """MODEL, STATE, LAYERS, BUSY, KV FREE, MEMORY."""
    details = model.hearth
    state = Text(figures.state(details), STYLES.get(details.state or "", ""))
    if details.state == "ready" and not model.answers:
        state = Text("silent", STYLES["silent"])
    if model.pinned:
        state.append(" pinned", "cyan")
    if details.n_restarts:
        state.append(f" x{details.n_restarts}", "yellow")
    return (
        Text(one_line(model.name)),
        state,
        Text(layers(model)),
        Text(f"{details.n_running or 0}+{details.n_waiting or 0}", justify="right"),
        Text(_percent(_ratio(details.kv_tokens_free, details.kv_tokens)), justify="right"),
        Text(figures.data_size(details.engine_rss_bytes), justify="right"),
    )


def layers(model: WatchedModel) -> str:
    """How many layers are on which device: "20@gpu:0 12@cpu:0"."""
    parts = []
    for stage in model.hearth.stages:
        if stage.layers is None or len(model.hearth.stages) == 1:
            parts.append(stage.device)
        else:
            parts.append(f"{stage.layers[1] - stage.layers[0]}@{stage.device}")
    return one_line(" ".join(parts)) or figures.UNKNOWN


def model_details(model: WatchedModel) -> Iterator[tuple[str, str]]:
    """All that is known of a model, by name."""
    details = model.hearth
    yield "state", figures.state(details) + (" (pinned)" if model.pinned else "")
    if details.error:
        yield "error", details.error
    yield "file", figures.or_dash(details.path)
    yield "digest", figures.or_dash(details.digest)
    yield (
        "kind",
        " ".join(filter(None, (details.architecture, details.quantization, details.backend))),
    )
    yield (
        "size",
        f"{figures.count(details.n_parameters)} parameters, {figures.data_size(details.weights_bytes)}",
    )
    for stage in details.stages:
        span_of = "all" if stage.layers is None else f"{stage.layers[0]} to {stage.layers[1] - 1}"
        yield "layers", f"{span_of} of {figures.or_dash(details.n_layers)} on {stage.device}"
    yield "context", f"{figures.room(details)} sequences"
    yield "kv memory", f"{figures.share(details.kv_tokens_free, details.kv_tokens)} tokens free"
    yield "requests", f"{details.n_running or 0} run, {details.n_waiting or 0} wait"
    yield (
        "engine",
        f"pid {figures.or_dash(details.engine_pid)}, {figures.data_size(details.engine_rss_bytes)}, {details.n_restarts or 0} restarts",
    )
    if details.draft:
        yield "guesses", figures.draft(details)


def request_cells(request: UnderWay) -> tuple[Text, ...]:
    """ID, WHO, CLASS, MODEL, PROMPT, OUT, TTFT, TOK/S, AGE."""
    speed = request.tokens_per_second
    return (
        Text(str(request.number), justify="right"),
        Text(one_line(request.key)),
        Text(_CLASSES.get(request.klass, request.klass)),
        Text(one_line(request.model)),
        Text(figures.count(request.n_prompt), justify="right"),
        Text(figures.count(request.n_output), justify="right"),
        Text(figures.duration(request.ttft_seconds), justify="right"),
        Text(figures.UNKNOWN if speed is None else f"{speed:.1f}", justify="right"),
        Text(short_span(request.age_seconds), "" if request.running else "dim", justify="right"),
    )


def answer_cells(answer: TopAnswer) -> tuple[Text, ...]:
    """HITS, SAVED, MODEL, QUERY."""
    query = f"(answer {answer.key[:12]})" if answer.question is None else answer.question
    return (
        Text(figures.count(answer.hits), justify="right"),
        Text(short_span(answer.saved_seconds), justify="right"),
        Text(one_line(answer.model)[:14]),
        Text(one_line(query)[:200]),
    )


def cache_line(top: Top) -> Text:
    """What the cache did, in one line."""
    cache = top.cache
    if not cache.enabled:
        return Text("the cache is off (cache.enabled)", "dim")
    hits = cache.results.get("HIT", 0) + cache.results.get("COALESCED", 0)
    looked = hits + cache.results.get("MISS", 0)
    rate = figures.UNKNOWN if not looked else f"{hits / looked:.0%}"
    return Text.assemble(
        ("hit rate ", "dim"),
        (rate, "bold"),
        f" ({hits}/{looked})  bypassed {cache.results.get('BYPASS', 0)}  "
        f"{figures.count(cache.n_answers)} answers, {figures.data_size(cache.n_bytes)}  "
        f"spared {short_span(cache.saved_seconds)}, {figures.count(cache.saved_tokens)} tokens",
    )


def batch_cells(batch: Batch, now: float) -> tuple[Text, ...]:
    """BATCH, STATUS, DONE, FAILED, AGE."""
    counts = batch.request_counts
    done = figures.UNKNOWN if counts is None else f"{counts.completed}/{counts.total}"
    failed = figures.UNKNOWN if counts is None else str(counts.failed)
    age = (
        figures.UNKNOWN
        if batch.created_at is None
        else short_span(max(0.0, now - batch.created_at))
    )
    return (
        Text(one_line(batch.id)[:34]),
        Text(one_line(batch.status), STYLES.get(batch.status, "")),
        Text(done, justify="right"),
        Text(failed, "red" if counts is not None and counts.failed else "", justify="right"),
        Text(age, justify="right"),
    )


def alert_cells(alert: Alert) -> tuple[Text, ...]:
    """LEVEL, WHAT, MESSAGE."""
    return (
        Text(alert.level, STYLES.get(alert.level, "")),
        Text(one_line(alert.subject)[:24]),
        Text(one_line(alert.message)[:300]),
    )


def alert_key(alert: Alert, number: int) -> str:
    """What tells it from others of the same reading."""
    return f"{alert.kind} {alert.subject} {number}"


def alert_details(alert: Alert) -> Iterator[tuple[str, str]]:
    """All of an alert."""
    yield "of", alert.subject
    yield "what", alert.message


def request_details(request: UnderWay) -> Iterator[tuple[str, str]]:
    """All that is known of a request."""
    yield "id", request.request_id
    yield "key", f"{request.key}, {request.klass}"
    yield "model", f"{request.model}, asked for {request.asked}"
    cached = "" if not request.n_cached else f", {request.n_cached} of them were there already"
    yield "prompt", f"{figures.or_dash(request.n_prompt)} tokens{cached}"
    yield (
        "answer",
        f"{request.n_output} tokens, the first after {figures.duration(request.ttft_seconds)}",
    )
    yield "age", f"{short_span(request.age_seconds)}, {'runs' if request.running else 'waits'}"


def answer_details(answer: TopAnswer) -> Iterator[tuple[str, str]]:
    """All that is known of a frequent query."""
    yield "query", answer.question or "(only operators see it)"
    yield "model", answer.model
    yield "hits", f"{answer.hits}, which spared {short_span(answer.saved_seconds)}"
    yield "answer", answer.key


def log_line(line: LogLine) -> Text:
    """One line of the log, in the clock of who reads it."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.time))
    return Text.assemble(
        (f"{clock} ", "dim"),
        (f"{line.level:<8}", STYLES.get(line.level, "")),
        one_line(line.message),
    )


def _share(part: int | None, whole: int | None) -> str:
    """1.2/12.0 GiB, in the unit of the whole."""
    if whole is None:
        return figures.data_size(part)
    text, unit = figures.data_size(whole).split()
    size = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
    return f"{figures.UNKNOWN if part is None else format(part / size, '.1f')}/{text} {unit}"


def _percent(ratio: float | None) -> str:
    return figures.UNKNOWN if ratio is None else f"{ratio:.0%}"


def _ratio(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def _heat(ratio: float | None) -> str:
    if ratio is None or ratio < 0.7:
        return ""
    return "yellow" if ratio < 0.92 else "red"
