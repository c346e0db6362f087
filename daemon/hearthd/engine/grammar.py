"""Grammars: which tokens may come next, so that the output is what was asked for; made by llguidance.

It fails closed: what cannot be compiled is refused, and a grammar that breaks under way allows nothing.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import Tokenizer
from hearthd import wire
from hearthd.engine import json_schema
from hearthd.engine.json_keywords import SchemaRefused, joined
from hearthd.engine.json_schema import Place, Schema
from hearthd.engine.mask_budget import MaskBudget
from hearthd.engine.tool_format import ToolGrammar, forced_grammar, free_grammar, quoted
from hearthd.engine.vocabulary import TokenizerForGrammars, control_token

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

log = logging.getLogger(__name__)

JSON_OPTIONS = {
    # An answer is never whitespace without end; deep indentation fits.
    "whitespace_pattern": r"[ \t\r\n]{1,48}",
    # Without \u a key has one spelling, so that none escapes from what its schema says.
    "json_allowed_escapes": 'nrbtf\\"',
}
ALL_ALLOWED = np.uint32(0xFFFFFFFF)
"""A word of a mask where no grammar has a say."""
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
MASK_SECONDS = 0.02
"""That a mask may take in the long run, unless told otherwise."""
MAX_CACHED = 64
"""Compiled grammars that are kept."""
MAX_BLAMED = 200
"""Schemas inside one that are tried by themselves to find the one at fault."""


class GrammarRefused(Exception):
    """A constraint that cannot be seen to; `param` names the field and the place in it."""

    def __init__(self, code: str, message: str, param: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class Grammar:
    """Follows one output, token by token; used by one thread at a time."""

    __slots__ = ("_budget", "_matcher", "n_words")

    def __init__(self, matcher: LLMatcher, n_words: int, mask_seconds: float) -> None:
        """`n_words`: of a mask, 32 tokens each; `mask_seconds`: that one may take, in the long run."""
        self._matcher = matcher
        self._budget = MaskBudget(mask_seconds)
        self.n_words = n_words

    def mask(self, row: NDArray[np.uint32]) -> None:
        """Set the bits of the tokens that may come next in `row` [n_words], clear the others.

        End tokens are among them where the output may end here. Nothing is when the grammar is broken,
        or has taken too much time.
        """
        if self.is_too_slow:
            row[:] = 0
            return
        began = time.thread_time()  # others on this machine are not the grammar's fault
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self._budget.spend(time.thread_time() - began)
        if self._matcher.is_error():
            row[:] = 0

    def masks(self, rows: NDArray[np.uint32], draft: Sequence[int]) -> None:
        """The mask of each of 1 + len(draft) rows, where each assumes the guesses before it."""
        n_assumed = 0
        for row, token in zip(rows, draft, strict=False):
            self.mask(row)
            if not self._matcher.try_consume_tokens([token]):
                break
            n_assumed += 1
        for row in rows[n_assumed:]:
            self.mask(row)  # after a guess that does not fit nothing is looked at
        if n_assumed:
            self._matcher.rollback(n_assumed)

    def mask_after(self, row: NDArray[np.uint32], guessed: Sequence[int]) -> None:
        """The mask of what may come after guesses that are taken to stand; nothing where they do not fit."""
        n_assumed = self._matcher.try_consume_tokens(list(guessed))
        if n_assumed == len(guessed):
            self.mask(row)
        else:
            row[:] = 0
        if n_assumed:
            self._matcher.rollback(n_assumed)

    def accept(self, token: int) -> bool:
        """Go on by a token of the output; False, and broken from then on, when it does not fit."""
        return bool(self._matcher.consume_token(token))

    def n_fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, one after the other, fit next."""
        return int(self._matcher.validate_tokens(list(tokens)))

    def forced(self) -> list[int]:
        """The next tokens, as far as there is one way to go on."""
        return list(self._matcher.compute_ff_tokens())

    def rollback(self, n_tokens: int) -> None:
        """Take back the last tokens."""
        self._matcher.rollback(n_tokens)

    def fork(self) -> Grammar:
        """The same state, to go on by itself."""
        return Grammar(self._matcher.deep_copy(), self.n_words, self._budget.allowed_seconds)

    @property
    def is_too_slow(self) -> bool:
        """Whether its masks have taken more time than the others in a batch can be asked to wait for."""
        return self._budget.is_overdrawn

    @property
    def mask_seconds(self) -> float:
        """That a mask may take, in the long run."""
        return self._budget.allowed_seconds

    @property
    def is_complete(self) -> bool:
        """Whether the output may end here."""
        return bool(self._matcher.is_accepting()) and not self._matcher.is_error()

    @property
    def is_over(self) -> bool:
        """Whether it must: nothing else may come."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def error(self) -> str | None:
        """What broke it."""
        return _first_line(self._matcher.get_error()) if self._matcher.is_error() else None


class GrammarFactory:
    """Compiles constraints for one vocabulary; thread-safe. Nothing large is made before it is needed."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        form: wire.ToolFormat | None = None,
        *,
        mask_seconds: float = MASK_SECONDS,
    ) -> None:
        """`form`: in which the model writes calls of tools; `mask_seconds`: that a mask may take."""
        self._mask_seconds = mask_seconds
        self._tokenizer = tokenizer
        self._n_words = -(-tokenizer.n_vocab // 32)
        self._form: wire.ToolFormat = form or wire.DEFAULT_TOOL_FORMAT
        self._building = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._looking = threading.Lock()
        self._cache: OrderedDict[bytes, LLMatcher] = OrderedDict()

    @property
    def is_warm(self) -> bool:
        """Whether the vocabulary is ready."""
        return self._vocabulary is not None

    def warm(self) -> None:
        """Prepare the vocabulary, once; holds the interpreter for a second where it is very large."""
        self._ready()

    def compile(self, constraint: wire.Constraint) -> Grammar:
        """A grammar at its beginning; raises GrammarRefused."""
        key = msgspec.msgpack.encode(constraint)
        with self._looking:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return self._fresh(found)
        try:
            made = self._make(constraint)
        except GrammarRefused:
            raise
        except BaseException as error:  # a panic in the compiler is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            log.warning("a grammar could not be compiled: %r", error)
            message = f"this cannot be compiled: {_first_line(str(error)) or type(error).__name__}"
            raise GrammarRefused("invalid_value", message, constraint.param) from error
        with self._looking:
            self._cache[key] = made
            while len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        return self._fresh(made)

    def mark(self, text: str) -> str:
        """A mark of tool calls as a term of a grammar: its control token, where it has one."""
        token = control_token(self._tokenizer, text)
        return quoted(text) if token is None else f"<[{token}]>"

    def _fresh(self, matcher: LLMatcher) -> Grammar:
        return Grammar(matcher.deep_copy(), self._n_words, self._mask_seconds)

    # --- compiling -----------------------------------------------------------------------------

    def _ready(self) -> LLTokenizer:
        with self._building:
            if self._vocabulary is None:
                started = time.monotonic()
                self._vocabulary = TokenizerForGrammars(self._tokenizer).build()
                seconds = time.monotonic() - started
                log.info(
                    "vocabulary of %d tokens ready for grammars in %.2f s",
                    self._tokenizer.n_vocab,
                    seconds,
                )
            return self._vocabulary

    def _make(self, constraint: wire.Constraint) -> LLMatcher:
        if not self._tokenizer.end_ids:
            raise GrammarRefused(
                "unsupported", "this model has no token that ends an output", constraint.param
            )
        matcher = self._matcher(self._source(constraint), constraint.param)
        first = self._fresh(matcher)
        row = np.zeros(self._n_words, np.uint32)
        first.mask(row)
        if not row.any():
            raise GrammarRefused(
                "invalid_value", "no output at all would satisfy this", constraint.param
            )
        return matcher

    def _matcher(self, source: str, param: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._ready(), source, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarRefused("invalid_value", _first_lines(matcher.get_error()), param)
        return matcher

    def _source(self, constraint: wire.Constraint) -> str:
        """The constraint as llguidance takes it; raises GrammarRefused."""
        match constraint:
            case wire.JsonConstraint():
                return f"start: %json {self._json(constraint.schema, constraint.param)}"
            case wire.RegexConstraint():
                from llguidance import LLMatcher

                return LLMatcher.grammar_from_regex(constraint.pattern)
            case wire.GrammarConstraint():
                return _lark(constraint)
            case wire.ChoiceConstraint():
                return "start: " + " | ".join(map(quoted, constraint.choices))
            case wire.ToolConstraint():
                return self._tools(constraint)

    def _tools(self, constraint: wire.ToolConstraint) -> str:
        tools = [
            ToolGrammar(tool.name, self._json(_parameters(tool), tool.param))
            for tool in constraint.tools
        ]
        parallel = constraint.parallel
        if constraint.forced:
            return forced_grammar(self._form, tools, parallel=parallel, mark=self.mark)
        if constraint.answer is None:
            return free_grammar(self._form, tools, parallel=parallel, mark=self.mark)
        answer = self._json(constraint.answer, constraint.answer_param)
        return forced_grammar(self._form, tools, parallel=parallel, mark=self.mark, answer=answer)

    def _json(self, schema: Schema, param: str) -> str:
        """A schema that compiles, as text; raises GrammarRefused that names what does not."""
        try:
            schema, places = json_schema.checked(schema)
            self._try_schema(schema, places)
        except SchemaRefused as refused:
            path = joined(param, refused.path)
            raise GrammarRefused(refused.code, f"{path}: {refused.message}", path) from refused
        return _with_options(schema)

    def _try_schema(self, schema: Schema, places: Sequence[Place]) -> None:
        """Raise SchemaRefused with the innermost schema that is at fault."""
        message = self._fault(schema)
        if message is None:
            return
        shared: dict[str, Any] = {}
        if isinstance(schema, dict):
            shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        by_depth = sorted(places, key=lambda place: -len(place.path))
        for place in by_depth[:MAX_BLAMED]:
            if place.path and self._fault({**shared, **place.schema}) == message:
                raise SchemaRefused(place.path, _worded(message))
        raise SchemaRefused("", _worded(message))

    def _fault(self, schema: Schema) -> str | None:
        """What the compiler says against a schema by itself."""
        from llguidance import LLMatcher

        source = LLMatcher.grammar_from_json_schema(_with_options(schema))
        message = LLMatcher.validate_grammar(source, self._ready())
        if not message or message.startswith("WARNING"):
            return None
        return _first_lines(message)


def _parameters(tool: wire.Tool) -> Schema:
    return NO_ARGUMENTS if tool.parameters is None else tool.parameters


def _with_options(schema: Schema) -> str:
    whole: dict[str, Any] = {} if isinstance(schema, bool) else schema
    return json.dumps({**whole, "x-guidance": JSON_OPTIONS}, ensure_ascii=False)


def _lark(constraint: wire.GrammarConstraint) -> str:
    """The grammar's text; GBNF is translated."""
    if "::=" not in constraint.text:
        return constraint.text
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(constraint.text))
    except Exception as error:  # it raises whatever its parser came across
        raise GrammarRefused(
            "invalid_value", f"the grammar cannot be read as GBNF: {error}", constraint.param
        ) from error


def _worded(message: str) -> str:
    """The compiler's words, where they speak of options that nobody has here."""
    if message.startswith("oneOf constraints are not supported"):
        return "oneOf is supported where its branches plainly exclude each other; try anyOf"
    return message


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]


def _first_lines(message: str) -> str:
    """An error of the parser with the place that it points at, without its dump of the state."""
    return message.partition("<state>")[0].strip()
