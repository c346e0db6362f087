"""SavedStates: whole states of sequences, kept in host memory by number; for models that cannot step back."""

from __future__ import annotations

from hearth_backends.errors import BackendError, StepError
from hearth_backends.gguf.context import Context, State


class SavedStates:
    """Copies of a context's sequences, each of the number of tokens it stood at."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._saved: dict[int, tuple[int, State]] = {}

    def save(self, row: int, index: int, n_tokens: int) -> None:
        """Keep the state of a row that stands at n_tokens; raises StepError where llama.cpp gives none."""
        state = self._context.save(row)
        if not state.size:
            raise StepError(f"llama.cpp gives no state of row {row}")
        self._saved[index] = (n_tokens, state)

    def load(self, index: int, row: int, n_tokens: int) -> None:
        """Put a saved state into a row that was cleared.

        Raises BackendError for a state that is not there, StepError where llama.cpp has no room.
        """
        held, state = self._saved.get(index, (0, None))
        if state is None or held != n_tokens:
            raise BackendError(f"state {index} is of {held} tokens, not {n_tokens}")
        if not self._context.load(row, state):
            raise StepError(f"llama.cpp does not take back a state of {n_tokens} tokens")

    def drop(self, index: int) -> None:
        """Forget a state, if it is there."""
        self._saved.pop(index, None)

    @property
    def n_bytes(self) -> int:
        """What all of them take."""
        return sum(state.nbytes for _, state in self._saved.values())
