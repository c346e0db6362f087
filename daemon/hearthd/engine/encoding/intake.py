"""EncodingIntake: what hearthd asks of an encoder becomes a job, or is refused in words."""

from __future__ import annotations

import time
from collections.abc import Callable

from hearth_backends.base import LoadedModel, Tokenizer
from hearth_backends.encoder import Pair, PairTokenizer
from hearthd import wire
from hearthd.engine.encoding.job import Job, Text
from hearthd.engine.refused import Refused
from hearthd.engine.request import Priority
from hearthd.engine.tokenizing import Tokenizing

JoinPair = Callable[[str, str, int | None], Pair]
"""The pair of a query and a document of at most so many tokens."""

_FIELD = {"embed": "input", "rerank": "documents"}


class EncodingIntake(Tokenizing):
    """Tokenizes and validates; thread-safe as the tokenizer is."""

    def __init__(
        self, model: LoadedModel, *, name: str, task: wire.EncodingTask, context: int, dim: int
    ) -> None:
        """`name`: as clients call it; `dim`: of a vector."""
        super().__init__(model.tokenizer)
        self._name = name
        self._task = task
        self._context = context
        self._dim = dim
        self._join = join_pairs(model) if task == "rerank" else None

    def embed(self, frame: wire.Embed) -> Job:
        """A job for the queue; raises Refused."""
        self._check_task(frame)
        if frame.dimensions is not None and frame.dimensions > self._dim:
            raise Refused(
                frame.rid,
                "invalid_value",
                f"dimensions: the vectors of {self._name} have {self._dim}, not {frame.dimensions}",
                "dimensions",
            )
        limit = self._limit(frame)
        if frame.query is not None:
            texts = self._pairs(frame, frame.query, limit)
        else:
            texts = self._texts(frame, limit)
        return Job(
            frame.rid,
            texts,
            n_prompt=sum(len(text.tokens) for text in texts),
            dimensions=frame.dimensions,
            priority=Priority(
                level=frame.priority,
                key=frame.key,
                weight=frame.weight,
                deadline_seconds=frame.deadline_seconds,
                arrived_seconds=frame.arrived_seconds or time.monotonic(),
            ),
        )

    def submit(self, frame: wire.Submit) -> Refused:
        """Nothing is generated here."""
        address = "/v1/embeddings" if self._task == "embed" else "/v1/rerank"
        return _wrong(frame.rid, f"{self._name} generates no text; {address} serves it")

    def encode(self, frame: wire.Encode) -> wire.Encoded:
        """The tokens of a text; raises Refused for a chat."""
        if frame.text is None:
            message = f"{self._name} has no form for chats: it generates no text"
            raise Refused(frame.rid, "no_chat_template", message, "messages")
        tokens = self.tokenizer.encode(
            frame.text, add_special=frame.add_special, parse_special=True
        )
        return self._encoded(frame.rid, tokens)

    def _check_task(self, frame: wire.Embed) -> None:
        if frame.query is not None and self._task == "embed":
            raise _wrong(
                frame.rid,
                f"{self._name} embeds texts and scores no pairs: /v1/rerank needs a reranker; vectors of "
                "/v1/embeddings can be compared instead",
            )
        if frame.query is None and self._task == "rerank":
            raise _wrong(
                frame.rid, f"{self._name} is a reranker and has no vectors; /v1/rerank serves it"
            )

    def _limit(self, frame: wire.Embed) -> int | None:
        """Tokens that a text is cut to, where that was asked for; never more than fit."""
        if frame.truncate is None:
            return None
        return self._context if frame.truncate < 0 else min(frame.truncate, self._context)

    # --- texts ---------------------------------------------------------------------------------

    def _texts(self, frame: wire.Embed, limit: int | None) -> list[Text]:
        if frame.token_lists is not None:
            for i, tokens in enumerate(frame.token_lists):
                self.check_tokens(frame.rid, tokens, self._place(frame, i))
            found = [tokens[:limit] for tokens in frame.token_lists]
        else:
            found = [self._tokens_of(text, frame.add_special, limit) for text in frame.texts or ()]
        for i, tokens in enumerate(found):
            self._check_length(frame, i, len(tokens))
        return [Text(tokens) for tokens in found]

    def _tokens_of(self, text: str, add_special: bool, limit: int | None) -> list[int]:
        """Of the text as much as there is room for between the marks around it."""
        tokens = self.tokenizer.encode(text, add_special=add_special, parse_special=True)
        if limit is None or len(tokens) <= limit:
            return tokens
        bare = self.tokenizer.encode(text, add_special=False, parse_special=True)
        before, after = marks_around(tokens, bare)
        if before + after >= limit:
            return tokens[:limit]
        return tokens[: limit - after] + tokens[len(tokens) - after :]

    # --- pairs ---------------------------------------------------------------------------------

    def _pairs(self, frame: wire.Embed, query: str, limit: int | None) -> list[Text]:
        join = self._join
        assert join is not None
        texts: list[Text] = []
        for i, document in enumerate(frame.texts or ()):
            pair = join(query, document, frame.most_document_tokens)
            excess = len(pair.tokens) - limit if limit is not None else 0
            while 0 < excess < pair.n_second:
                pair = join(query, document, pair.n_second - excess)
                excess = len(pair.tokens) - (limit or 0)
            if limit is not None and len(pair.tokens) > limit:
                message = f"query: leaves no room for a document in the {limit} tokens of a pair"
                raise Refused(frame.rid, "context_length_exceeded", message, "query")
            self._check_length(frame, i, len(pair.tokens))
            texts.append(Text(pair.tokens, pair.second or None))
        return texts

    # --- refusals ------------------------------------------------------------------------------

    def _check_length(self, frame: wire.Embed, i: int, n: int) -> None:
        place = self._place(frame, i)
        if n == 0:
            raise Refused(frame.rid, "invalid_value", f"{place}: has no tokens", place)
        if n <= self._context:
            return
        what = "with the query, " if frame.query is not None else ""
        message = (
            f"{place}: {what}it has {n} tokens, and this model takes {self._context}: shorten it, or "
            "have it cut with truncate_prompt_tokens"
        )
        raise Refused(frame.rid, "context_length_exceeded", message, place)

    def _place(self, frame: wire.Embed, i: int) -> str:
        """The field of the request that text i comes from."""
        field = _FIELD[self._task]
        n = len(frame.texts if frame.texts is not None else frame.token_lists or ())
        return field if n == 1 and self._task == "embed" else f"{field}[{i}]"


def join_pairs(model: LoadedModel) -> JoinPair | None:
    """How the model's pairs are made; None where nobody says."""
    tokenizer, template = model.tokenizer, model.spec.encoding.pair_template
    if template is not None:
        return lambda query, document, most: _fill(tokenizer, template, query, document, most)
    if isinstance(tokenizer, PairTokenizer) and tokenizer.joins_pairs:
        pairs = tokenizer
        return lambda query, document, most: pairs.encode_pair(query, document, most=most)
    return None


def _fill(tokenizer: Tokenizer, template: str, query: str, document: str, most: int | None) -> Pair:
    """A pair as a template has it: one text, of which nobody knows where the second begins."""
    words = tokenizer.encode(document, add_special=False, parse_special=False)
    if most is not None and len(words) > most:
        words = words[:most]
        document = tokenizer.decode(words).decode("utf-8", errors="ignore")
    parts = template.split("{document}")
    text = document.join(part.replace("{query}", query) for part in parts)
    tokens = tokenizer.encode(text, add_special=False, parse_special=True)
    return Pair(tokens, 0, len(words))


def marks_around(tokens: list[int], bare: list[int]) -> tuple[int, int]:
    """How many marks stand before and after a text, by its tokens without them. Pure."""
    n_marks = len(tokens) - len(bare)
    for before in range(n_marks + 1):
        if tokens[before : before + len(bare)] == bare:
            return before, n_marks - before
    return 0, 0


def _wrong(rid: int, message: str) -> Refused:
    return Refused(rid, "wrong_task", message, "model")
