"""The backends under test, each in every way it can be run; a new backend is one entry here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import sim_oracle
from engine_rig import Answer, Rig
from lora_models import write_lora
from recurrent_models import write_recurrent
from shells import Masking, mask_of

import hearth_backends
from hearth_backends.base import Stage
from hearth_backends.registry import open_model
from hearth_backends.sim.language import oracle
from hearthd import wire

CANARY = Path(hearth_backends.__file__).parent / "canary" / "canary.gguf"
WRITTEN = Path(tempfile.gettempdir()) / f"hearth-conformance-{os.getpid()}"
"""Where models are written that the suite makes for itself; `forget_models` removes it."""
SURE = 1e-3
"""Two best log-probabilities this far apart keep their order whoever shares the batch."""

GREEDY = wire.Sampling(temperature=0.0)


@dataclass(frozen=True)
class Ask:
    """A request of the suite."""

    prompt: tuple[int, ...]
    sampling: wire.Sampling = GREEDY
    max_tokens: int = 12
    min_tokens: int = 0
    ignore_eos: bool = True
    allowed: tuple[int, ...] = ()  # tokens that a mask lets through; none: all
    constraint: wire.Constraint | None = None
    adapter: str | None = None  # one of the subject's


@dataclass(frozen=True)
class Subject:
    """A backend in one of its configurations."""

    name: str
    path: str
    n_stages: int = 1
    load: dict[str, Any] = field(default_factory=dict, hash=False)
    is_slow: bool = False  # whether `make check` leaves it out: others tell almost as much
    needs: str = ""  # a package without which it is skipped
    fails_every: tuple[int, ...] = (2, 3, 5)  # steps that are let fail
    refuses: dict[str, str] = field(default_factory=dict, hash=False)  # feature: in these words
    write: Callable[[Path], None] | None = None  # makes its model
    adapters: tuple[str, ...] = ("one", "two")  # names of its LoRA adapters

    def absence(self) -> str | None:
        """Why it cannot be tried here."""
        if self.needs and find_spec(self.needs) is None:
            return f"the package {self.needs} is not installed"
        if self.write is not None and not Path(self.path).exists():
            WRITTEN.mkdir(exist_ok=True)
            self.write(Path(self.path))
        if not self.path.startswith("sim:") and not Path(self.path).exists():
            return f"{self.path} is not there"
        return None

    def rig(self, **options: Any) -> Rig:
        """An engine with this backend; `options` of Rig."""
        return Rig(self.path, n_stages=self.n_stages, **{**self.load, **options})

    def ask(self, seed: int, n_prompt: int = 40, **fields: Any) -> Ask:
        """A request with a prompt of words that depend on the seed only."""
        return Ask(prompt=self.prompt(seed, n_prompt), **fields)

    @staticmethod
    def prompt(seed: int, n_tokens: int) -> tuple[int, ...]:
        """Printable bytes, which are tokens of every model here."""
        random = Random(seed)
        return tuple(random.choice(b"abcdefghij klmnop qrstuv wxyz.") for _ in range(n_tokens))

    def submit(self, rig: Rig, ask: Ask) -> int:
        """Put a request into an engine."""
        return rig.submit(
            ask.prompt,
            ask.sampling,
            max_tokens=ask.max_tokens,
            min_tokens=ask.min_tokens,
            ignore_eos=ask.ignore_eos,
            constraint=ask.constraint,
            adapter=ask.adapter,
        )

    def lora(self) -> list[wire.AdapterConfig]:
        """Its adapters; of a model in a file they are written, with random weights."""
        if self.path.startswith("sim:"):
            return [wire.AdapterConfig(name, f"sim:{name}") for name in self.adapters]
        WRITTEN.mkdir(exist_ok=True)
        model = Path(self.path)
        paths = [WRITTEN / f"{model.stem}-{name}.lora.gguf" for name in self.adapters]
        for seed, path in enumerate(paths):
            if not path.exists():
                write_lora(path, model, seed=seed)
        return [
            wire.AdapterConfig(name, str(path))
            for name, path in zip(self.adapters, paths, strict=True)
        ]

    def expect(self, ask: Ask) -> list[int]:
        """The output that a request must get, its end token included."""
        return self._reference(ask)[0]

    def check(self, answer: Answer, ask: Ask) -> None:
        """Fail unless the answer is what the request gets when it has an engine for itself."""
        output, n_sure = self._reference(ask)
        assert answer.finish in ("length", "stop"), answer.error
        assert answer.output[:n_sure] == output[:n_sure]
        if n_sure == len(output):
            assert answer.output == output

    def _reference(self, ask: Ask) -> tuple[list[int], int]:
        """An output, and how many of its tokens are sure; the same in all of a model's subjects."""
        key = (self.path.partition(":")[0], repr(ask))
        if key not in _references:
            compute = _from_oracle if self.path.startswith("sim:") else _run_alone
            _references[key] = compute(self, ask)
        return _references[key]


_references: dict[tuple[str, str], tuple[list[int], int]] = {}


def _from_oracle(subject: Subject, ask: Ask) -> tuple[list[int], int]:
    if ask.constraint is not None:
        output = sim_oracle.expected_under(
            subject.path, ask.prompt, ask.sampling, ask.constraint, max_tokens=ask.max_tokens
        )
        return output, len(output)
    language = sim_oracle.language_of(subject.path, f"sim:{ask.adapter}" if ask.adapter else "")
    output = oracle(
        language,
        ask.prompt,
        sim_oracle.params_of(ask.sampling),
        ask.max_tokens,
        end_ids=frozenset() if ask.ignore_eos else sim_oracle.END_IDS,
        min_output=ask.min_tokens,
        mask=mask_of(ask.allowed, language.options.vocab) if ask.allowed else None,
    )
    return output, len(output)


def _run_alone(subject: Subject, ask: Ask) -> tuple[list[int], int]:
    """What one request gets in a fresh engine of one stage, which runs nothing else."""
    wrap: Callable[[Stage], Stage] = _unwrapped
    if ask.allowed:
        mask = mask_of(ask.allowed, open_model(subject.path).spec.n_vocab)
        wrap = partial(Masking, mask=mask)
    best_two = msgspec.structs.replace(ask.sampling, n_logprobs=2)
    load = {**subject.load, "step_tokens": 512}
    if ask.adapter is not None:
        load["lora"] = subject.lora()
    with Rig(subject.path, wrap=wrap, **load) as rig:
        answer = rig.answers[subject.submit(rig, replace(ask, sampling=best_two))]
        rig.run()
    return answer.output, _n_sure(ask, answer)


def _unwrapped(stage: Stage) -> Stage:
    return stage


def _n_sure(ask: Ask, answer: Answer) -> int:
    """How many tokens stand whatever the last bits of the logits: greedy ones up to a near tie."""
    if ask.sampling.temperature > 0:
        return 0
    for i, entry in enumerate(answer.logprobs):
        (_, _, best), (_, _, second) = entry.top[:2]
        if best - second < SURE:
            return i
    return len(answer.output)


def _simulated() -> list[Subject]:
    """Every layout of key-value memory, synchronous and not, in one stage and in two."""
    subjects = []
    for variant in ("blocks", "slots", "slots,mixed=1", "cells", "states"):
        for depth in (0, 1):
            for n_stages in (1, 2):
                refuses = {}
                if variant == "states":
                    refuses["drafts"] = refuses["draft_models"] = "memory that can step back"
                    refuses["recalls"] = "carries a state"
                if variant == "slots":
                    refuses["drafts"] = refuses["draft_models"] = "different numbers of rows"
                subjects.append(
                    Subject(
                        name=f"sim {variant.replace(',', ' ')}, depth {depth}, {n_stages} stages",
                        path=f"sim:variant={variant},depth={depth},layers=3",
                        n_stages=n_stages,
                        is_slow=n_stages == 2 and (depth == 1 or variant.startswith("slots")),
                        fails_every=_fails_every(variant, n_stages),
                        refuses=refuses,
                    )
                )
    return subjects


def _fails_every(variant: str, n_stages: int) -> tuple[int, ...]:
    """Often, but so that work is done in between: every stage fails, and states start anew."""
    if variant == "states":
        return (11,)
    return (2, 3, 5) if n_stages == 1 else (5, 7)


def _gguf(n_stages: int) -> Subject:
    return Subject(
        name=f"gguf, {n_stages} stages",
        path=str(CANARY),
        n_stages=n_stages,
        load={"kv_dtype": "f32", "threads": 1},
        fails_every=_fails_every("cells", n_stages),
        needs="llama_cpp",
    )


def _onnx(n_stages: int) -> Subject:
    return Subject(
        name=f"onnx, {n_stages} stages",
        path=str(CANARY),
        n_stages=n_stages,
        load={"backend": "onnx", "kv_dtype": "f32", "weights": "fp32", "threads": 1},
        fails_every=_fails_every("slots", n_stages),
        needs="onnxruntime",
        refuses={"adapters": "loads no adapters"},
    )


def _cuda(n_stages: int) -> Subject:
    return Subject(
        name=f"cuda, {n_stages} stages",
        path=str(CANARY),
        n_stages=n_stages,
        load={"backend": "cuda", "kv_dtype": "f32", "weights": "fp32", "threads": 1},
        fails_every=_fails_every("blocks", n_stages),
        is_slow=True,
        needs="torch",
        refuses={"adapters": "loads no adapters"},
    )


def _onnx_in_phases() -> Subject:
    """Two sets of weights, of one kind: outputs are then the same whatever was computed with which."""
    whole = _onnx(1)
    return replace(
        whole,
        name="onnx, two sets of weights",
        load={**whole.load, "weights": "fp32+fp32"},
        is_slow=True,
    )


def _recurrent(architecture: str) -> Subject:
    """A tiny random model that carries a state."""
    return Subject(
        name=f"gguf, {architecture}",
        path=str(WRITTEN / f"{architecture}.gguf"),
        load={"kv_dtype": "f32", "threads": 1},
        fails_every=_fails_every("states", 1),
        needs="llama_cpp",
        refuses={
            "drafts": "memory that can step back",
            "draft_models": "memory that can step back",
            "recalls": "carries a state",
        },
        write=partial(write_recurrent, architecture=architecture),
    )


def forget_models() -> None:
    """Remove the models that were written."""
    shutil.rmtree(WRITTEN, ignore_errors=True)


SUBJECTS = [
    *_simulated(),
    _gguf(1),
    _gguf(2),
    *map(_recurrent, ("mamba", "lfm2")),
    _onnx(1),
    _onnx(2),
    _onnx_in_phases(),
    _cuda(1),
    _cuda(2),
]
