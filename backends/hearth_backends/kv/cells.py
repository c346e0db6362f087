"""CellStore: rows over one pool of cells, where a forked prefix costs its cells once.

This is llama.cpp's unified cache: a cell belongs to a set of sequences, and FORK adds one to the set.
Cells are counted, not addressed. Which rows share which cells is a tree: a node is a run of
positions with the same holders, a row's tokens are the path from the root to its leaf, so that
forking, cutting and leaving cost steps in depth, and growing by a token costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from hearth_backends.kv.pool import RowStrand
from hearth_backends.kv.rows import RowStore

_Leaf: TypeAlias = "_Node | None"


class _Node:
    """Cells of positions [start, end) on the paths of all strands at or below this node."""

    __slots__ = ("busy", "end", "holders", "parent", "start")

    def __init__(self, parent: _Node | None, start: int, end: int) -> None:
        self.parent = parent
        self.start = start
        self.end = end
        self.holders = 0  # strands whose leaf this is, and child nodes
        self.busy = 0  # busy strands at or below

    @property
    def size(self) -> int:
        return self.end - self.start


class CellPool:
    """Counts cells: free, and held by idle strands only."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.n_free = n_cells
        self._n_idle = 0

    @property
    def n_spare(self) -> int:
        """See Pool."""
        return self.n_free + self._n_idle

    def take(self, n_tokens: int) -> bool:
        """See Pool."""
        if n_tokens > self.n_free:
            return False
        self.n_free -= n_tokens
        return True

    def give(self, n_tokens: int) -> None:
        """See Pool."""
        self.n_free += n_tokens

    def share(self, strand: RowStrand, source: RowStrand, n_tokens: int) -> None:
        """See Pool."""
        self._hold(strand, self._node_to(source, n_tokens))

    def shrink(self, strand: RowStrand, n_tokens: int) -> None:
        """See Pool."""
        leaf = self._settled(strand)
        node = self._node_to(strand, n_tokens) if n_tokens else None
        self._hold(strand, node)
        self._release(leaf, strand.busy)

    def retire(self, strand: RowStrand) -> None:
        """See Pool."""
        node = self._settled(strand)
        while node is not None:
            self._calm(node)
            node = node.parent

    def drop(self, strand: RowStrand) -> None:
        """See Pool."""
        self._release(self._settled(strand), strand.busy)
        strand.leaf = None

    def tail(self, strand: RowStrand) -> tuple[int, bool]:
        """See Pool."""
        leaf = self._settled(strand)
        return (0, True) if leaf is None else (leaf.size, leaf.holders == 1)

    # --- the tree ------------------------------------------------------------------------------

    def _settled(self, strand: RowStrand) -> _Leaf:
        """The strand's leaf, after the tokens it committed since it was last looked at."""
        leaf: _Leaf = strand.leaf  # type: ignore[assignment]  # only this class sets it
        start = 0 if leaf is None else leaf.end
        if strand.n > start:
            if leaf is None or leaf.holders > 1:
                leaf = strand.leaf = _Node(leaf, start, start)
                leaf.holders = 1
                leaf.busy = 1
            leaf.end = strand.n
        return leaf

    def _node_to(self, strand: RowStrand, n_tokens: int) -> _Node:
        """The node on a strand's path that ends at n_tokens > 0; one is split where none does."""
        node = self._settled(strand)
        while node is not None and node.start >= n_tokens:
            node = node.parent
        if node is None or node.end < n_tokens:
            raise ValueError(f"a strand of {strand.n} tokens has no {n_tokens}")
        if node.end == n_tokens:
            return node
        upper = _Node(node.parent, node.start, n_tokens)
        upper.holders = 1
        upper.busy = node.busy
        node.parent = upper
        node.start = n_tokens
        return upper

    def _hold(self, strand: RowStrand, node: _Leaf) -> None:
        strand.leaf = node
        if node is not None:
            node.holders += 1
        if strand.busy:
            while node is not None:
                if not node.busy:
                    self._n_idle -= node.size
                node.busy += 1
                node = node.parent

    def _release(self, leaf: _Leaf, busy: bool) -> None:
        """One holder of a leaf goes; cells that nobody holds any more are free."""
        node = leaf
        held = True
        while node is not None and (busy or held):
            if busy:
                self._calm(node)
            if held:
                node.holders -= 1
                held = not node.holders
                if held:
                    self._n_idle -= node.size
                    self.n_free += node.size
            node = node.parent

    def _calm(self, node: _Node) -> None:
        node.busy -= 1
        if not node.busy:
            self._n_idle += node.size

    def check(self, strands: Sequence[RowStrand], n_reserved: int) -> None:
        """See Pool."""
        holders: dict[_Node, int] = {}
        busy: dict[_Node, int] = {}
        for strand in strands:
            node = self._settled(strand)
            assert strand.n == (0 if node is None else node.end), "a strand and its cells differ"
            is_new = True
            while node is not None:
                if is_new:
                    is_new = node not in holders
                    holders[node] = holders.get(node, 0) + 1
                busy[node] = busy.get(node, 0) + strand.busy
                assert node.start == (0 if node.parent is None else node.parent.end)
                assert node.size > 0
                node = node.parent
        for node, count in holders.items():
            assert node.holders == count, "holders do not add up"
            assert node.busy == busy[node], "busy holders do not add up"
        n_held = sum(node.size for node in holders)
        assert n_held + n_reserved + self.n_free == self.n_cells, "cells do not add up"
        assert self._n_idle == sum(node.size for node in holders if not node.busy)
        assert self.n_free >= 0


class CellStore(RowStore):
    """Sequences over a pool of n_cells tokens shared by n_seq rows of at most n_ctx tokens.

    Rows beyond the number of sequences that run at once keep more idle prefixes.
    """

    def __init__(self, n_seq: int, n_cells: int, n_ctx: int) -> None:
        super().__init__(n_seq, n_ctx, CellPool(n_cells))
