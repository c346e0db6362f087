"""The tokenizer of an encoder: a checkpoint's, with WordPiece's spelling and the form of pairs."""

from __future__ import annotations

from pathlib import Path

from hearth_backends.encoder import Pair
from hearth_backends.weights.checkpoint_tokenizer import CheckpointTokenizer
from hearth_backends.weights.json_file import read_table

_GOES_ON = "##"


class EncoderTokenizer(CheckpointTokenizer):
    """A PairTokenizer over a tokenizer.json."""

    def __init__(self, path: Path, *, n_vocab: int) -> None:
        """Load it; raises ModelFileError."""
        self._is_word_piece = _model_kind(path) == "WordPiece"
        super().__init__(path, n_vocab=n_vocab, bos_id=None, eos_id=None, end_ids=frozenset())
        self.joins_pairs = len(self._plain.encode("a", "a").ids) > 2

    def encode_pair(self, first: str, second: str, *, most: int | None = None) -> Pair:
        """See PairTokenizer."""
        one, other = (text.encode("utf-8", "replace").decode() for text in (first, second))
        joined = self._plain.encode(one, other)
        tokens: list[int] = joined.ids
        owners: list[int | None] = joined.sequence_ids
        n_second = owners.count(1)
        # Of an empty text nothing stands between the marks: it would begin before the last.
        begin = owners.index(1) if n_second else len(tokens) - 1
        if most is not None and n_second > most:
            del tokens[begin + most : begin + n_second]
            n_second = most
        return Pair(tokens, begin, n_second)

    def _read_piece(self, token: int) -> bytes:
        """See CheckpointTokenizer; a word begins with a space, what goes on with one does not."""
        if not self._is_word_piece or token in self._added:
            return super()._read_piece(token)
        text: str | None = self._parsing.id_to_token(token)
        if text is None:
            return b""
        return (text[2:] if text.startswith(_GOES_ON) else f" {text}").encode()


def _model_kind(path: Path) -> str | None:
    model = read_table(path).get("model")
    return model.get("type") if isinstance(model, dict) else None
