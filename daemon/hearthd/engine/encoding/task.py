"""What a model is loaded for: to generate, or to encode and how; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hearth_backends.encoder import Task
from hearth_backends.errors import Unsupported
from hearth_backends.weights.encoding import Pooling
from hearth_backends.weights.spec import ModelSpec

_GIVE_VECTORS = frozenset({"mean", "cls", "last"})


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a model that does not generate is to be run."""

    task: Literal["embed", "rerank"]
    pooling: Pooling


def choose_encoding(
    model: ModelSpec, task: Task | None = None, pooling: Pooling | None = None
) -> Encoding | None:
    """What the configuration asks for, or else what the file was made for; None: it generates.

    A model that generates becomes an encoder only where its file or its configuration says so.
    Raises Unsupported for what the model cannot do, in words.
    """
    facts = model.encoding
    if task is None:
        task = _made_for(model, pooling)
    if task == "generate":
        if not facts.generates:
            raise Unsupported(
                f"{model.name} ({model.architecture}) continues no text: it is made to encode; leave "
                'task out, or set it to "embed" or "rerank"'
            )
        if pooling is not None:
            raise Unsupported('pooling is for models with task = "embed"')
        return None
    if task == "rerank":
        return _reranking(model, pooling)
    return Encoding("embed", _pooling(model, pooling))


def _made_for(model: ModelSpec, pooling: Pooling | None) -> Task:
    facts = model.encoding
    if facts.pooling == "rank" and pooling is None:
        return "rerank"
    if not facts.generates or pooling is not None or facts.pooling in _GIVE_VECTORS:
        return "embed"
    return "generate"


def _reranking(model: ModelSpec, pooling: Pooling | None) -> Encoding:
    if not model.encoding.ranks:
        raise Unsupported(f"{model.name} has no head that scores documents: it is no reranker")
    if pooling is not None:
        raise Unsupported("pooling is for embedding models; a reranker has a head of its own")
    return Encoding("rerank", "rank")


def _pooling(model: ModelSpec, asked: Pooling | None) -> Pooling:
    """How the vectors of tokens become one, which nobody must guess."""
    if asked is not None:
        return asked
    facts = model.encoding
    if facts.pooling in _GIVE_VECTORS:
        return facts.pooling
    if facts.pooling == "rank":
        raise Unsupported(f'{model.name} is a reranker; as it is, it serves task = "rerank"')
    if facts.generates:
        return "last"  # the only token that has seen the whole text
    raise Unsupported(
        f"the file of {model.name} does not say how the vectors of tokens become that of a text; set "
        'pooling to "mean", "cls" or "last", as the model was trained'
    )
