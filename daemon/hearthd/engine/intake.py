"""Intake: what hearthd asks becomes a request, or is refused in words; runs beside the step loop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hearth_backends.base import AdapterSpec, LoadedModel, SamplingParams, Tokenizer
from hearth_backends.kv.hashing import HashChain
from hearthd import wire
from hearthd.engine import tool_format, tool_prompt
from hearthd.engine.chat import ChatTemplate, TemplateRefused
from hearthd.engine.grammar import MASK_SECONDS, Grammar, GrammarFactory, GrammarRefused
from hearthd.engine.output import Output
from hearthd.engine.refused import Refused
from hearthd.engine.request import Limits, Priority, Request
from hearthd.engine.tokenizing import Tokenizing
from hearthd.engine.vocabulary import control_token


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request ready for the scheduler, and where its output goes."""

    request: Request
    output: Output


class Intake(Tokenizing):
    """Renders, tokenizes and validates; thread-safe as the tokenizer is."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        context: int,
        adapters: Mapping[str, AdapterSpec] | None = None,
        grammar_seconds: float = MASK_SECONDS,
    ) -> None:
        """`adapters`: by name; stages have them under numbers from 1 on, in this order.

        `grammar_seconds`: that the mask of one token may take.
        """
        self._adapters = {None: (0, "")} | {
            name: (number, adapter.digest)
            for number, (name, adapter) in enumerate((adapters or {}).items(), 1)
        }
        super().__init__(model.tokenizer)
        self.context = context
        self._name = model.spec.name
        self._digest = model.spec.digest
        self._add_bos = model.spec.add_bos
        form = tool_format.detect(model.spec.chat_template) or wire.DEFAULT_TOOL_FORMAT
        self.grammars = GrammarFactory(model.tokenizer, form, mask_seconds=grammar_seconds)
        marks = (control_token(model.tokenizer, mark) for mark in tool_format.MARKS[form])
        self._marks = frozenset(token for token in marks if token is not None)
        self._chat: ChatTemplate | None = None
        self._chat_refusal = (
            "the model's file has no chat template; /v1/completions takes plain text"
        )
        if model.spec.chat_template is not None:
            try:
                self._chat = ChatTemplate(
                    model.spec.chat_template,
                    bos=_text_of(model.tokenizer, model.tokenizer.bos_id),
                    eos=_text_of(model.tokenizer, model.tokenizer.eos_id),
                )
            except TemplateRefused as error:
                self._chat_refusal = str(error)

    def submit(self, frame: wire.Submit) -> Arrival:
        """A request for the scheduler; raises Refused."""
        prompt = self._prompt(frame)
        max_output = self._room(frame, len(prompt))
        end_ids = frozenset(frame.stop_token_ids)
        if not frame.ignore_eos or frame.constraint is not None:  # what is complete has to end
            end_ids |= self.tokenizer.end_ids
        adapter, adapter_digest = self._adapter(frame)
        request = Request(
            id=frame.rid,
            tokens=prompt + frame.emitted,
            n_prompt=len(prompt),
            params=_sampling(frame),
            limits=Limits(
                max_output=max_output,
                min_output=frame.min_tokens,
                end_ids=end_ids,
                banned_early=tuple(sorted(end_ids)) if frame.min_tokens else (),
                stop=tuple(frame.stop),
                include_stop=frame.include_stop,
            ),
            chain=HashChain(self._digest, adapter=adapter_digest, salt=frame.salt),
            priority=Priority(
                level=frame.priority,
                key=frame.key,
                weight=frame.weight,
                deadline_seconds=frame.deadline_seconds,
                arrived_seconds=frame.arrived_seconds or time.monotonic(),
            ),
            shares=frame.prompt_logprobs is None,
            scores_prompt=frame.prompt_logprobs is not None,
            grammar=self._grammar(frame),
            adapter=adapter,
        )
        output = Output(
            request,
            self.tokenizer,
            echo=self._echo(frame, prompt),
            shown=self._marks if frame.calls_tools else frozenset(),
        )
        return Arrival(request, output)

    def embed(self, frame: wire.Embed) -> wire.Reject:
        """A model that generates has no vectors to give."""
        message = (
            f"{self._name} generates text: /v1/embeddings and /v1/rerank need models made for them, or "
            'one with task = "embed" in its configuration'
        )
        return wire.Reject(frame.rid, 400, "wrong_task", message, "model")

    def _adapter(self, frame: wire.Submit) -> tuple[int, str]:
        """The number and the digest of a request's adapter."""
        found = self._adapters.get(frame.adapter)
        if found is None:
            message = f"{self._name} has no adapter {frame.adapter!r}"
            raise Refused(frame.rid, "model_not_found", message, "model", status=404)
        return found

    def _grammar(self, frame: wire.Submit) -> Grammar | None:
        """What the output must be, from where it is now."""
        if frame.constraint is None:
            return None
        try:
            grammar = self.grammars.compile(frame.constraint)
        except GrammarRefused as refused:
            raise Refused(frame.rid, refused.code, refused.message, refused.param) from refused
        if not all(grammar.accept(token) for token in frame.emitted):
            message = "the output so far does not fit what the output must be"
            raise Refused(frame.rid, "invalid_value", message, "emitted")
        return grammar

    def _echo(self, frame: wire.Submit, prompt: list[int]) -> str | None:
        """The prompt's text, where the client wants it back."""
        if not frame.echo:
            return None
        if frame.text is not None:
            return frame.text
        return self.tokenizer.decode(prompt, special=True).decode("utf-8", errors="replace")

    def encode(self, frame: wire.Encode) -> wire.Encoded:
        """The tokens of a text or a chat; raises Refused."""
        tokens = self._encode(
            frame.rid,
            text=frame.text,
            messages=frame.messages,
            add_special=frame.add_special,
            template_args={
                **frame.template_args,
                "add_generation_prompt": frame.add_generation_prompt,
            },
        )
        return self._encoded(frame.rid, tokens)

    def _prompt(self, frame: wire.Submit) -> list[int]:
        if frame.tokens is not None:
            self.check_tokens(frame.rid, frame.tokens, "prompt")
            prompt = list(frame.tokens)
        else:
            prompt = self._encode(
                frame.rid,
                text=frame.text,
                messages=frame.messages,
                add_special=frame.add_special,
                template_args=frame.template_args,
            )
        self.check_tokens(frame.rid, frame.emitted, "emitted")
        self.check_tokens(frame.rid, frame.stop_token_ids, "stop_token_ids")
        self.check_tokens(frame.rid, [t for t, _ in frame.sampling.logit_bias], "logit_bias")
        if not prompt:
            raise Refused(frame.rid, "invalid_value", "the prompt has no tokens", "prompt")
        return prompt

    def _encode(
        self,
        rid: int,
        *,
        text: str | None,
        messages: list[dict[str, Any]] | None,
        add_special: bool,
        template_args: dict[str, Any],
    ) -> list[int]:
        if messages is not None:
            if self._chat is None:
                raise Refused(rid, "no_chat_template", self._chat_refusal, "messages")
            tools = template_args.get("tools") or ()
            if not self._chat.takes_tools and (tools or tool_prompt.speaks_of_tools(messages)):
                messages = tool_prompt.as_plain_messages(messages, tools)
            try:
                text = self._chat.render(messages, template_args)
            except TemplateRefused as error:
                raise Refused(rid, "invalid_value", str(error), "messages") from error
            bos = _text_of(self.tokenizer, self.tokenizer.bos_id)
            add_special = self._add_bos and not (bos and text.startswith(bos))
        return self.tokenizer.encode(text or "", add_special=add_special, parse_special=True)

    def _room(self, frame: wire.Submit, n_prompt: int) -> int:
        """Tokens that may be generated; the context is never cut."""
        wanted = frame.max_tokens
        least = 1 if wanted is None else wanted
        if n_prompt + least > self.context:
            asked = (
                f"{n_prompt} in the prompt and {wanted} to generate"
                if wanted
                else f"{n_prompt} in the prompt"
            )
            message = (
                f"this model's context is {self.context} tokens, but the request has "
                f"{n_prompt + (wanted or 0)} ({asked}): shorten one of them"
            )
            param = "messages" if frame.messages is not None else "prompt"
            raise Refused(frame.rid, "context_length_exceeded", message, param)
        return self.context - n_prompt if wanted is None else wanted


def _sampling(frame: wire.Submit) -> SamplingParams:
    sampling = frame.sampling
    n_logprobs = sampling.n_logprobs
    if n_logprobs is None:
        n_logprobs = frame.prompt_logprobs
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=tuple(sampling.logit_bias),
        seed=sampling.seed,
        n_logprobs=n_logprobs,
    )


def _text_of(tokenizer: Tokenizer, token: int | None) -> str:
    """The text of a control token, empty where there is none."""
    return "" if token is None else tokenizer.piece(token, special=True).decode("utf-8", "replace")
