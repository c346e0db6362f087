"""KVPool: key-value memory of a stage's layers in blocks of BLOCK_TOKENS tokens; block 0 is for padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import LayerMemory
from hearth_backends.kv.contract import BLOCK_TOKENS


def n_blocks(kv_tokens: int) -> int:
    """Blocks of a pool that holds so many tokens, the null block among them."""
    return -(-kv_tokens // BLOCK_TOKENS) + 1


class KVPool:
    """Keys and values, one tensor [blocks, BLOCK_TOKENS, heads, dim] for each layer; made once, never moved."""

    def __init__(
        self,
        n_layers: int,
        kv_tokens: int,
        n_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Raises what torch raises where there is no memory."""
        self.shape = (n_blocks(kv_tokens), BLOCK_TOKENS, n_heads, head_dim)
        self.dtype = dtype
        # Zeros: what attention reads beyond a sequence's end is masked, and must be a number all the same.
        self._whole = torch.zeros((n_layers, 2, *self.shape), dtype=dtype, device=device)
        self.layers = [LayerMemory(keys, values) for keys, values in self._whole]

    @property
    def n_bytes(self) -> int:
        return self._whole.nbytes

    def token_bytes(self) -> int:
        """Of one token, over all layers."""
        n_layers = self._whole.shape[0]
        return n_layers * 2 * math.prod(self.shape[2:]) * self._whole.itemsize

    def read(self, blocks: Sequence[int], n_tokens: int) -> bytes:
        """The first tokens of a block table, as [layer, keys and values, token, head, dim]."""
        at = torch.tensor(blocks[: -(-n_tokens // BLOCK_TOKENS)], device=self._whole.device)
        found = self._octets().index_select(2, at).flatten(2, 3)[:, :, :n_tokens]
        return found.contiguous().cpu().numpy().tobytes()

    def write(self, blocks: Sequence[int], state: bytes, n_tokens: int) -> None:
        """Put the first n_tokens of what `read` gave where a block table has them; raises ValueError."""
        n_layers, octets = self._whole.shape[0], self._octets()
        token_shape = octets.shape[4:]
        held = torch.frombuffer(bytearray(state), dtype=torch.uint8)
        held = held.view(n_layers, 2, -1, *token_shape)[:, :, :n_tokens].to(self._whole.device)
        if held.shape[2] < n_tokens:
            raise ValueError(f"a state of {held.shape[2]} tokens, not {n_tokens}")
        where = torch.arange(n_tokens, device=self._whole.device)
        table = torch.tensor(blocks, device=self._whole.device)
        slots = table[where // BLOCK_TOKENS] * BLOCK_TOKENS + where % BLOCK_TOKENS
        flat = octets.flatten(2, 3)
        flat.index_copy_(2, slots, held)

    def _octets(self) -> Tensor:
        """The memory as bytes [layer, 2, block, token, head, bytes]: not every operation knows every float."""
        return self._whole.view(torch.uint8)
