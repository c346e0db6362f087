"""What differs between two configurations: which models, what counts at once, what waits for a restart."""

from __future__ import annotations

import msgspec

from hearthd.config import Config, KeyConfig, ModelConfig
from hearthd.config.changes import Changes, ModelChanges, compare
from hearthd.config.schema import (
    LimitsConfig,
    LogConfig,
    MemoryConfig,
    ModelCacheConfig,
    StopConfig,
)

OLD = Config(models={"a": ModelConfig(path="/a"), "b": ModelConfig(path="/b", draft="a")})


def changed(**fields: object) -> Changes:
    return compare(OLD, msgspec.structs.replace(OLD, **fields))


def models(**models: ModelConfig) -> ModelChanges:
    return changed(models={**OLD.models, **models}).models


def test_nothing_is_nothing() -> None:
    assert not changed().any


def test_models_come_and_go() -> None:
    changes = changed(models={"b": OLD.models["b"], "c": ModelConfig(path="/c")})
    assert changes.models.added == ("c",)
    assert changes.models.removed == ("a",)
    assert changes.models.replaced == ("b",)  # what guessed for it is a path now
    assert changes.restart == changes.live == ()


def test_what_an_engine_goes_by_takes_another_engine() -> None:
    assert models(b=ModelConfig(path="/b", draft="a", context=512)).replaced == ("b",)


def test_a_draft_model_that_changes_takes_new_engines_for_both() -> None:
    assert models(a=ModelConfig(path="/a2")).replaced == ("a", "b")


def test_aliases_and_the_cache_take_none() -> None:
    calm = ModelConfig(path="/a", aliases=("x",), cache=ModelCacheConfig(enabled=False))
    assert models(a=calm) == ModelChanges(adjusted=("a",))


def test_what_counts_at_once_and_what_does_not() -> None:
    changes = changed(
        listen="127.0.0.1:1",
        keys={"kitchen": KeyConfig(hash="0" * 64)},
        log=LogConfig(level="debug"),
        stop=StopConfig(drain_seconds=1.0),
        limits=LimitsConfig(queue_requests=1, max_body_bytes=5),
        memory=MemoryConfig(budget=7),
    )
    assert changes.restart == ("listen", "limits.max_body_bytes", "memory.budget")
    assert changes.live == (
        "keys.kitchen", "limits.queue_requests", "log.level", "stop.drain_seconds",
    )  # fmt: skip


def test_every_key_of_the_schema_is_one_or_the_other() -> None:
    """A section that is added later waits for a restart until somebody makes it count at once."""
    sections = {field.name for field in msgspec.structs.fields(Config)}
    assert {"models", "keys", "engine", "log", "stop", "limits", "batch"} <= sections
