"""Report: the numbers of one load, and how they are printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from hearth_bench.client import Record
from hearth_bench.load import LoadResult
from hearth_bench.stats import Summary, summarize


@dataclass(frozen=True, slots=True)
class Report:
    """What a load measured. Latencies are of requests that succeeded; None where nothing was seen."""

    endpoint: str
    model: str
    n_ok: int
    n_failed: int
    errors: dict[str, int]  # by kind
    wall_seconds: float
    prompt_tokens: int | None  # as the server counted them
    cached_tokens: int | None
    output_tokens: int
    ttft_seconds: Summary | None
    gap_seconds: Summary | None  # between chunks of a stream: the inter-token latency
    tpot_seconds: Summary | None  # mean per request of a token after its first
    e2e_seconds: Summary | None
    output_tokens_per_second: float
    total_tokens_per_second: float | None
    requests_per_second: float
    client_cores: float  # processor time of the client over the wall's
    copied: float | None = None  # of the texts that were to be repeated, what was (mean)

    def metrics(self) -> dict[str, float | None]:
        """The figures that comparisons are made of."""
        return {
            "output tok/s": self.output_tokens_per_second,
            "total tok/s": self.total_tokens_per_second,
            "requests/s": self.requests_per_second,
            **_percentiles("TTFT", self.ttft_seconds),
            **_percentiles("gap", self.gap_seconds),
            **_percentiles("per token", self.tpot_seconds),
            **_percentiles("E2E", self.e2e_seconds),
        }

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return asdict(self)


def _percentiles(name: str, summary: Summary | None) -> dict[str, float | None]:
    return {
        f"{name} p50": None if summary is None else summary.p50,
        f"{name} p95": None if summary is None else summary.p95,
    }


def make_report(result: LoadResult) -> Report:
    """Sum up a load. Throughput counts what came within the load's window."""
    records = result.records
    good = [record for record in records if record.error is None]
    began, ended = result.window
    wall = max(ended - began, 1e-9)
    n_output = sum(_output_within(record, began, ended) for record in records)
    prompts = [r.n_prompt for r in good if r.n_prompt is not None]
    cached = [r.usage.n_cached for r in good if r.usage and r.usage.n_cached is not None]
    n_prompt = _prompt_within(good, began, ended)
    return Report(
        endpoint=result.endpoint,
        model=result.model,
        n_ok=len(good),
        n_failed=len(records) - len(good),
        errors=dict(Counter(r.error for r in records if r.error is not None)),
        wall_seconds=wall,
        prompt_tokens=sum(prompts) if prompts else None,
        cached_tokens=sum(cached) if cached else None,
        output_tokens=sum(record.n_output for record in good),
        ttft_seconds=_summary(r.ttft_seconds for r in good),
        gap_seconds=summarize([gap for r in good for gap in r.gaps_seconds()]),
        tpot_seconds=_summary(r.tpot_seconds for r in good),
        e2e_seconds=summarize([r.e2e_seconds for r in good]),
        output_tokens_per_second=n_output / wall,
        total_tokens_per_second=None if n_prompt is None else (n_output + n_prompt) / wall,
        requests_per_second=sum(r.ended_seconds <= ended for r in good) / wall,
        client_cores=result.client_cpu_seconds / wall,
        copied=_mean([record.copied for record in good if record.copied is not None]),
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _summary(values: Iterable[float | None]) -> Summary | None:
    return summarize([value for value in values if value is not None])


def _output_within(record: Record, began: float, ended: float) -> float:
    """Tokens that came within a window; those of a chunk are taken as equally many in each."""
    if not record.chunk_seconds:
        return 0.0
    n_within = sum(began <= at <= ended for at in record.chunk_seconds)
    return record.n_output * n_within / len(record.chunk_seconds)


def _prompt_within(records: list[Record], began: float, ended: float) -> int | None:
    """Prompt tokens whose first answer came within a window; None where the server counts none."""
    counted = [r for r in records if r.n_prompt is not None and r.chunk_seconds]
    if not counted:
        return None
    return sum(r.n_prompt or 0 for r in counted if began <= r.chunk_seconds[0] <= ended)


def as_text(report: Report) -> str:
    """A table for people; times in milliseconds."""
    cached = f" ({report.cached_tokens} cached)" if report.cached_tokens else ""
    prompt = "?" if report.prompt_tokens is None else str(report.prompt_tokens)
    lines = [
        f"{report.endpoint}  model {report.model}",
        f"{report.n_ok} ok, {report.n_failed} failed in {report.wall_seconds:.2f} s;"
        f" prompt {prompt} tokens{cached}, output {report.output_tokens} tokens;"
        f" client {report.client_cores:.2f} cores",
        f"{'ms':<12}{'p50':>10}{'p95':>10}{'p99':>10}{'mean':>10}{'max':>10}",
    ]
    lines += [
        _row("TTFT", report.ttft_seconds),
        _row("inter-token", report.gap_seconds),
        _row("per token", report.tpot_seconds),
        _row("end to end", report.e2e_seconds),
    ]
    total = report.total_tokens_per_second
    lines.append(
        f"output {report.output_tokens_per_second:.1f} tok/s"
        f"   total {'?' if total is None else f'{total:.1f}'} tok/s"
        f"   {report.requests_per_second:.2f} requests/s"
    )
    if report.copied is not None:
        lines.append(f"repeated {report.copied:.1%} of what was given")
    lines += [f"error {kind}: {n}" for kind, n in sorted(report.errors.items())]
    return "\n".join(lines)


def _row(name: str, summary: Summary | None) -> str:
    if summary is None:
        return f"{name:<12}{'-':>10}"
    cells = (summary.p50, summary.p95, summary.p99, summary.mean, summary.max)
    return f"{name:<12}" + "".join(f"{value * 1000:>10.2f}" for value in cells)
