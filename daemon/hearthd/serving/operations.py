"""Operations: what operators do to a model while the daemon runs, decided here and done by `Serving`."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from hearthd.errors import Conflict, HearthError, ModelDrained, ModelUnloaded

Operation: TypeAlias = Literal["load", "unload", "drain", "pin", "unpin"]
Intake: TypeAlias = Literal["open", "drained", "unloaded"]
"""Whether a model takes requests, and why not."""
WITHHELD: Final = frozenset({"drained", "unloading", "unloaded"})
"""States of models that operators have taken out of service."""


def next_intake(operation: Operation, intake: Intake, *, name: str, pinned: bool) -> Intake:
    """What becomes of a model's intake; raises Conflict for what is not to be done. Pure."""
    if operation == "load":
        return "open"
    if operation == "unload":
        if pinned:
            raise Conflict(f"the model {name} is pinned: unpin it first", code="model_pinned")
        return "unloaded"
    if operation == "drain":
        if intake == "unloaded":
            raise Conflict(
                f"the model {name} is unloaded: nothing runs there", code="model_unloaded"
            )
        return "drained"
    return intake


def refusal(name: str, intake: Intake) -> HearthError | None:
    """What a client of a model is told that takes no requests; None where it does. Pure."""
    if intake == "drained":
        return ModelDrained(
            f"the model {name} takes no new requests: an operator drains it", param="model"
        )
    if intake == "unloaded":
        return unloaded(name)
    return None


def unloaded(name: str) -> ModelUnloaded:
    """What the requests of an unloaded model end with."""
    return ModelUnloaded(f"the model {name} was unloaded by an operator", param="model")
