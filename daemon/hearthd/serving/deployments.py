"""Deployments: names to deployments, each of which has revisions, each of which has replicas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hearthd import wire
from hearthd.config.schema import ModelConfig
from hearthd.errors import ModelNotFound
from hearthd.placement.placement import ANY_PROCESSOR, Placement
from hearthd.serving.admission import Admission
from hearthd.serving.operations import Intake, refusal
from hearthd.serving.replica import Replica
from hearthd.serving.status import ModelState, ModelStatus


@dataclass(frozen=True, slots=True)
class Revision:
    """One way to serve a deployment: a configuration, and the replicas that run it."""

    number: int
    config: ModelConfig
    replicas: tuple[Replica, ...]
    draft: wire.DraftConfig | None = None

    def load_frame(
        self, name: str, placement: Placement, prefix_folder: Path | None = None
    ) -> wire.Load:
        """What an engine of this revision is told first, once it is known where it goes."""
        config, place = self.config, placement.places[0]
        return wire.Load(
            name=name,
            path=config.path,
            backend=place.backend if place.backend is not None else config.backend,
            device=place.name or place.device,
            stages=[
                wire.StageConfig(
                    p.backend or "",
                    p.name or p.device,
                    p.layers,
                    p.own_process,
                    p.cpus,
                    None if p.name in (None, p.device) else p.device,
                )
                for p in (placement.places if placement.is_cut else ())
            ],
            context=placement.context or config.context,
            concurrency=config.concurrency,
            kv_tokens=placement.kv_tokens or config.kv_tokens,
            kv_dtype=config.kv_dtype,
            weights=config.weights,
            step_tokens=config.step_tokens,
            itl_target_seconds=config.itl_target_ms / 1000,
            grammar_seconds=config.grammar_ms / 1000,
            aging_seconds=config.aging_seconds,
            threads=config.threads,
            budget_bytes=placement.budget_bytes,
            prefix_ram_bytes=config.prefix_ram,
            prefix_disk_bytes=config.prefix_disk,
            prefix_folder=None if prefix_folder is None else str(prefix_folder),
            lookup=config.lookup,
            draft=self._draft_at(placement),
            lora=[wire.AdapterConfig(adapter.name, adapter.path) for adapter in config.lora],
            task=config.task,
            pooling=config.pooling,
            options=config.options,
        )

    def _draft_at(self, placement: Placement) -> wire.DraftConfig | None:
        """What guesses, beside the last layers where nobody says where."""
        if self.draft is None or self.draft.device:
            return self.draft
        last = placement.places[-1]
        is_planned = placement.origin == "planned" and last.name is not None
        device = last.name if is_planned else ANY_PROCESSOR
        return msgspec.structs.replace(self.draft, device=device)


def draft_config(config: ModelConfig, models: Mapping[str, ModelConfig]) -> wire.DraftConfig | None:
    """What guesses for a model: one of `models`, or a file with every default."""
    if config.draft is None:
        return None
    draft = models.get(config.draft) or ModelConfig(path=config.draft)
    return wire.DraftConfig(
        name=config.draft,
        path=draft.path,
        backend=draft.backend,
        device=wire.group_name(draft.devices or ()),  # none: decided when the model is placed
        stages=[
            wire.StageConfig(s.backend, s.device, s.layers, s.own_process, s.cpus)
            for s in draft.stages
        ],
        kv_dtype=draft.kv_dtype,
        weights=draft.weights,
        threads=draft.threads,
        options=draft.options,
    )


@dataclass(slots=True)
class Deployment:
    """A model under a name; requests go to its current revision."""

    name: str
    created: int  # unix seconds
    admission: Admission
    current: Revision
    intake: Intake = "open"
    pinned: bool = False  # operators cannot unload it before they have said otherwise
    held: wire.Hold = field(default=wire.Hold(1.0))  # how much of itself it may use

    def check_intake(self) -> None:
        """Raise ModelDrained or ModelUnloaded where an operator has taken it out of service."""
        error = refusal(self.name, self.intake)
        if error is not None:
            raise error

    @property
    def concurrency(self) -> int:
        """Requests that its replicas run at once."""
        return sum(
            self.held.of(
                replica.info.concurrency
                if replica.info is not None
                else self.current.config.concurrency
            )
            for replica in self.current.replicas
        )

    def hold(self, share: float) -> None:
        """Have its replicas use that share of their seats from now on."""
        if share != self.held.share:
            self.held = wire.Hold(share)
        for replica in self.current.replicas:
            replica.hold(self.held)

    def status(self) -> ModelStatus:
        """What is known of it now, of its best replica where there are several."""
        replicas = self.current.replicas
        silent = {replica: replica.why_not_answering for replica in replicas}
        best = min(replicas, key=lambda r: (_STATE_ORDER[r.state], silent[r] is not None))
        n_running = sum(replica.n_running for replica in replicas)
        failure = best.failure
        return ModelStatus(
            name=self.name,
            path=self.current.config.path,
            state=self._state(best),
            phase=best.phase,
            progress=best.progress,
            error=silent[best] if failure is None else failure.message,
            error_code=None if failure is None else failure.code,
            info=best.info,
            created=self.created,
            n_running=n_running,
            n_waiting=sum(replica.n_outstanding for replica in replicas) - n_running,
            kv_tokens_free=None if best.beat is None else best.beat.kv_tokens_free,
            pid=best.pid,
            n_restarts=sum(replica.n_restarts for replica in replicas),
            engine_rss_bytes=best.rss_bytes,
            answers=self.intake == "open" and best.state == "ready" and silent[best] is None,
            pinned=self.pinned,
            beat=best.beat,
            adapters={adapter.name: adapter.path for adapter in self.current.config.lora},
            placements=tuple(r.placement for r in replicas if r.placement is not None),
            setbacks=tuple(note for r in replicas for note in r.setbacks),
        )

    def _state(self, best: Replica) -> ModelState:
        if self.intake == "unloaded":
            gone = all(replica.vacant for replica in self.current.replicas)
            return "unloaded" if gone else "unloading"
        return "drained" if self.intake == "drained" and best.state == "ready" else best.state


_STATE_ORDER = {"ready": 0, "restarting": 1, "loading": 2, "failed": 3}


class Deployments:
    """Every deployment by name and by alias."""

    def __init__(self, deployments: Iterable[tuple[Deployment, Iterable[str]]]) -> None:
        """Each with its aliases; raises ValueError for a name that stands for two."""
        self._deployments: dict[str, Deployment] = {}
        self._by_name: dict[str, Deployment] = {}
        self._adapters: dict[str, tuple[Deployment, str]] = {}  # by NAME:adapter
        for deployment, aliases in deployments:
            self._deployments[deployment.name] = deployment
            for name in (deployment.name, *aliases):
                other = self._by_name.setdefault(name, deployment)
                if other is not deployment:
                    raise ValueError(f"{name!r} is both {other.name} and {deployment.name}")
                for adapter in deployment.current.config.lora:
                    self._adapters[f"{name}:{adapter.name}"] = (deployment, adapter.name)

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._deployments.values())

    def resolve(self, name: str) -> Deployment:
        """The deployment a client means, with an adapter or without; raises ModelNotFound."""
        if name in self._by_name:
            return self._by_name[name]
        if name in self._adapters:
            return self._adapters[name][0]
        raise ModelNotFound(name, [*self._by_name, *self._adapters])

    def adapter(self, name: str) -> str | None:
        """The adapter that a client means by such a name; None: none."""
        return None if name in self._by_name else self._adapters[name][1]
