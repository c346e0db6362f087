"""Tools of a request: what the model is told of them, what it is held to, how its answer is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hearthd import wire
from hearthd.api.constraints import ANY_OBJECT
from hearthd.api.refusals import unsupported
from hearthd.api.schema import ChatRequest, NamedChoice, ToolDefinition
from hearthd.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Tools that the answer may call."""

    told: list[dict[str, Any]]  # as chat templates take them
    names: tuple[str, ...]
    parallel: bool
    constraint: wire.ToolConstraint | None  # None: the model writes what it likes


def tool_use(asked: ChatRequest, output: wire.Constraint | None) -> ToolUse | None:
    """The tools of a request whose text has to be `output`; None where no call can come.

    Raises InvalidRequest.
    """
    tools, choice = asked.tools or [], asked.tool_choice
    if not tools:
        if choice in (None, "none", "auto"):
            return None
        raise InvalidRequest("tool_choice: there are no tools to choose from", param="tool_choice")
    names = _names(tools)
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        raise InvalidRequest(
            f"tool_choice.function.name: no tool is called {choice.function.name!r}; "
            f"there are: {', '.join(names)}",
            param="tool_choice.function.name",
        )
    if choice == "none":
        return None
    parallel = asked.parallel_tool_calls is not False
    return ToolUse(
        told=told(tools),
        names=names,
        parallel=parallel and not isinstance(choice, NamedChoice),
        constraint=_constraint(asked, tools, output, parallel),
    )


def _constraint(
    asked: ChatRequest,
    tools: Sequence[ToolDefinition],
    output: wire.Constraint | None,
    parallel: bool,
) -> wire.ToolConstraint | None:
    choice = asked.tool_choice
    if isinstance(choice, NamedChoice):
        of_name = [t for t in _wired(tools, strictly=True) if t.name == choice.function.name]
        return wire.ToolConstraint(of_name, parallel=False)
    if choice == "required":
        return wire.ToolConstraint(_wired(tools, strictly=True), parallel=parallel)
    if output is None and not any(tool.function.strict for tool in tools):
        return None
    if not isinstance(output, wire.JsonConstraint | None):
        raise unsupported(
            output.param,
            'with tools that may be called, text is held to JSON only; or tool_choice "none"',
        )
    return wire.ToolConstraint(
        _wired(tools, strictly=False),
        forced=False,
        parallel=parallel,
        answer=None if output is None else output.schema,
        answer_param="response_format" if output is None else output.param,
    )


def _wired(tools: Sequence[ToolDefinition], *, strictly: bool) -> list[wire.Tool]:
    """Tools with the schemas that arguments are held to: each one's own, or where it is strict."""
    return [
        wire.Tool(
            name=tool.function.name,
            parameters=tool.function.parameters if strictly or tool.function.strict else ANY_OBJECT,
            param=f"tools[{i}].function.parameters",
        )
        for i, tool in enumerate(tools)
    ]


def _names(tools: Sequence[ToolDefinition]) -> tuple[str, ...]:
    names: list[str] = []
    for i, tool in enumerate(tools):
        name = tool.function.name
        if name in names:
            param = f"tools[{i}].function.name"
            raise InvalidRequest(f"{param}: there are two tools called {name!r}", param=param)
        names.append(name)
    return tuple(names)


def told(tools: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
    """Tools as chat templates take them."""
    return [{"type": tool.type, "function": msgspec.to_builtins(tool.function)} for tool in tools]
