"""ChatTemplate: a model's own template, rendered in Jinja2's sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateRefused(Exception):
    """The template does not take these messages; the message says why, in the template's words."""


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


class ChatTemplate:
    """Compiles a template once; raises TemplateRefused where the model's file has a broken one."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """`bos` and `eos` are the texts of those tokens; the environment is that of transformers."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
            self.takes_tools = "tools" in meta.find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            raise TemplateRefused(f"the model's chat template does not compile: {error}") from error
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of a chat; raises TemplateRefused.

        `arguments`: further variables of the template, of any name; it ends with the opening of an answer
        unless add_generation_prompt among them says otherwise.
        """
        variables = {**self._tokens, "add_generation_prompt": True, **(arguments or {})}
        try:
            return self._template.render({**variables, "messages": messages})
        except (
            TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            IndexError,
        ) as error:
            raise TemplateRefused(
                f"the model's chat template refused the messages: {error}"
            ) from error
        except (ArithmeticError, RecursionError, MemoryError) as error:
            raise TemplateRefused(f"the model's chat template failed: {error!r}") from error
