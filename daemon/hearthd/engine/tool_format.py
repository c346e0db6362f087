"""Tool formats: how families of models write a call of a tool, and the grammar that makes them write one.

hermes        <tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>     (Hermes, Qwen 2.5 and 3)
llama3        {"name": "f", "parameters": {...}}                              (Llama 3.1 and later)
mistral       [TOOL_CALLS] [{"name": "f", "arguments": {...}}, ...]           (Mistral, up to 2024)
mistral-args  [TOOL_CALLS]f[ARGS]{...}                                        (Mistral, since 2025)

`hearthd.api.tool_calls` reads what is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hearthd.wire import ToolFormat

MAX_CALLS = 64
"""Calls in one answer that is made of nothing else."""

MARKS: dict[ToolFormat, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
    "mistral-args": ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
}
"""What shows where calls are; vocabularies have some of these as control tokens."""

_OTHER_FORMS = ("<function=", "<arg_key>")  # inside <tool_call>: nobody here reads them


def detect(template: str | None) -> ToolFormat | None:
    """The form that a chat template teaches; None: it teaches none, or one that is not known here."""
    if template is None:
        return None
    if "[TOOL_CALLS]" in template:
        return "mistral-args" if "[ARGS]" in template else "mistral"
    if "<tool_call>" in template:
        return None if any(mark in template for mark in _OTHER_FORMS) else "hermes"
    if "<|start_header_id|>" in template and '"parameters"' in template:
        return "llama3"
    return None


@dataclass(frozen=True, slots=True)
class ToolGrammar:
    """A tool as grammars know it."""

    name: str
    schema: str  # of its arguments: JSON text


Mark: TypeAlias = Callable[[str], str]
"""The term of a mark in a grammar: its token, or its text as a string."""


def forced_grammar(
    form: ToolFormat,
    tools: Sequence[ToolGrammar],
    *,
    parallel: bool,
    mark: Mark,
    answer: str | None = None,
) -> str:
    """A grammar in Lark's notation whose texts are one call, or several where `parallel`.

    Or, instead of all calls, JSON that `answer` accepts: the text of a schema.
    """
    calls = {
        "hermes": _several('"\\n"', parallel),
        "llama3": "call",  # it was not taught to make several
        "mistral": f'{mark("[TOOL_CALLS]")} " "? "[" {_several(quoted(", "), parallel)} "]"',
        "mistral-args": _several("", parallel),
    }
    opening = mark(MARKS[form][0]) if form in ("hermes", "mistral-args") else ""
    start = calls[form] if answer is None else f"{calls[form]} | answer"
    answer_rule = "" if answer is None else f"answer: %json {answer}"
    return _lines(f"start: {start}", *_calls(form, tools, opening, mark), answer_rule)


def _several(between: str, parallel: bool) -> str:
    """One call, or more of them."""
    return f"call ({between} call){{0,{MAX_CALLS - 1}}}" if parallel else "call"


def free_grammar(
    form: ToolFormat, tools: Sequence[ToolGrammar], *, parallel: bool, mark: Mark
) -> str:
    """A grammar of any text in which calls are well formed and their arguments valid."""
    text = r"TEXT: /(.|\n)*/"
    match form:
        case "hermes" | "mistral-args":
            head, opening = _head(mark(MARKS[form][0]))
            start = "call* TEXT" if parallel else "TEXT | call"
            return _lines(f"start: {start}", text, head, *_calls(form, tools, opening, mark))
        case "mistral":
            head, opening = _head(mark("[TOOL_CALLS]"))
            more = '(", " call)*' if parallel else ""
            start = f'TEXT | {opening} " "? "[" call {more} "]"'
            return _lines(f"start: {start}", text, head, *_calls(form, tools, "", mark))
        case "llama3":
            line = r"([ \t\r]*([^ \t\r\n{][^\n]*)?)"  # where a brace begins a line, a call begins
            start = f"TEXT | {mark('<|python_tag|>')}? call"
            text = rf"TEXT: /{line}(\n{line})*/"
            return _lines(f"start: {start}", text, *_calls(form, tools, "", mark))


def _head(mark: str) -> tuple[str, str]:
    """A rule for text up to a mark, and its name; a control token needs none, no text holds it."""
    if mark.startswith("<["):
        return "", f"TEXT {mark}"
    return f"head[lazy]: TEXT {mark}", "head"


def _calls(form: ToolFormat, tools: Sequence[ToolGrammar], opening: str, mark: Mark) -> list[str]:
    """The rule of a call of any tool, and those under it."""
    rules = ["call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for i, tool in enumerate(tools):
        rules += [
            f"call_{i}: {_call(form, tool.name, f'args_{i}', opening, mark)}",
            f"args_{i}: %json {tool.schema}",
        ]
    return rules


def _call(form: ToolFormat, name: str, arguments: str, opening: str, mark: Mark) -> str:
    if form == "mistral-args":
        return f"{opening} {quoted(name)} {mark('[ARGS]')} {arguments}"
    key = "parameters" if form == "llama3" else "arguments"
    before = f'{{"name": {json.dumps(name)}, "{key}": '
    if form == "hermes":
        closing = mark("</tool_call>")
        return f'{opening} {quoted(chr(10) + before)} {arguments} "}}\\n" {closing}'
    return f'{opening} {quoted(before)} {arguments} "}}"'.lstrip()


def quoted(text: str) -> str:
    """A text as a string of Lark's notation."""
    return json.dumps(text, ensure_ascii=False)


def _lines(*rules: str) -> str:
    return "\n".join(rule for rule in rules if rule) + "\n"
