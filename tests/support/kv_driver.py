"""Drives a store as a scheduler and failing stages would, and checks every claim it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kv_memory import Memory

from hearth_backends.kv.contract import KVStore, Reservation, Want
from hearth_backends.kv.hashing import HashChain

TEXTS = [[1] * 96, [2, 3] * 48, [1] * 40 + [4] * 56, list(range(100, 196))]
"""What prompts begin with, so that prefixes of all lengths are shared."""


@dataclass(eq=False)
class Guest:
    """A sequence as stores see it, and what the driver knows of it."""

    id: int
    tokens: list[int]
    shares: bool = True
    n_computed: int = 0
    n_inflight: int = 0
    chain: HashChain = field(default_factory=lambda: HashChain("model"))

    @property
    def block_hashes(self) -> Sequence[bytes]:
        return self.chain.upto(self.tokens)


@dataclass(eq=False)
class Step:
    """A reservation in flight: what it computes and how many of its rows will count."""

    reservation: Reservation
    seqs: list[Guest]
    starts: list[int]
    written: list[list[int]]
    drafts: list[int]
    is_done: bool = False


class Driver:
    """One action at a time; every number it is given is reduced to what is possible."""

    def __init__(
        self, store: KVStore, memories: Sequence[Memory], *, n_ctx: int, capacity: int, exact: bool
    ) -> None:
        """`exact`: the store can keep any number of tokens of a sequence."""
        self.store = store
        self.memories = list(memories)
        self.n_ctx = n_ctx
        self.capacity = capacity
        self.exact = exact
        self.active: list[Guest] = []
        self.waiting: list[Guest] = []
        self.flying: list[Step] = []
        self.n_matched = 0
        self._n_ids = 0

    # --- actions -------------------------------------------------------------------------------

    def arrive(self, a: int, b: int) -> None:
        """A new sequence, or one that was preempted, is matched."""
        if not self.store.can_admit():
            return
        if self.waiting and a % 3 == 0:
            seq = self.waiting.pop(0)
        else:
            text = TEXTS[a % len(TEXTS)]
            tail = [1000 + (a * 7 + i) % 5 for i in range(b % 7)]
            self._n_ids += 1
            tokens = (text[: b % 97] + tail)[: self.n_ctx - 4] or [7]
            seq = Guest(self._n_ids, tokens, shares=a % 11 != 0)
        limit = None if a % 5 else b % 50
        seq.n_computed = self.store.match(seq, limit)
        if a % 13 == 0:  # a pipeline's stages agree on less
            seq.n_computed = self.store.match(seq, seq.n_computed // 2)
        assert 0 <= seq.n_computed < len(seq.tokens)
        assert seq.n_computed == self.store.committed(seq)
        self.n_matched += seq.n_computed
        self.active.append(seq)

    def step(self, a: int, b: int) -> None:
        """Reserve room for some sequences; make some when there is none."""
        if len(self.flying) >= 2:
            self.land(a, b)
        seqs: list[Guest] = []
        wants: list[Want] = []
        starts: list[int] = []
        written: list[list[int]] = []
        drafts: list[int] = []
        for i, seq in enumerate(self.active):
            if (a >> (i % 5)) & 1 or len(wants) >= 4:
                continue
            start = seq.n_computed + seq.n_inflight
            end = start + 1 + (b * (i + 1)) % 40
            if a % 2 and end > 16 * (start // 16 + 1):
                end -= end % 16  # as chunks for stages with saved states end
            known = seq.tokens[start:end]
            n_draft = 0
            if start + len(known) == len(seq.tokens) and known and not seq.n_inflight:
                n_draft = min((a + b) % 4, self.n_ctx - len(seq.tokens) - 1)
            if not known or start + len(known) + n_draft > self.n_ctx:
                continue
            seqs.append(seq)
            starts.append(start)
            drafts.append(max(n_draft, 0))
            written.append(known + [2000 + j for j in range(max(n_draft, 0))])
            wants.append(Want(seq, len(written[-1])))
        if not wants:
            return
        reservation = self.store.reserve(wants)
        if reservation is None:
            self._no_room(wants, a)
            return
        assert [want.seq.id for want in reservation.wants] == [seq.id for seq in seqs]
        for seq, want in zip(seqs, wants, strict=True):
            seq.n_inflight += want.n_tokens
        self.flying.append(Step(reservation, seqs, starts, written, drafts))

    def _no_room(self, wants: list[Want], a: int) -> None:
        """Nothing changed; a sequence at rest gives way, and a lone one is never refused."""
        for seq in self.active:
            assert self.store.committed(seq) == seq.n_computed
        idle = [seq for seq in self.active if not seq.n_inflight]
        if len(self.active) == 1 and not self.flying:
            end = idle[0].n_computed + wants[0].n_tokens
            assert end > min(self.n_ctx, self.capacity), "a lone sequence found no room"
        if idle:
            self._leave(idle[-1], True)
            self.waiting.append(idle[-1])

    def land(self, a: int, b: int) -> None:
        """The oldest step ends well."""
        if not self.flying:
            return
        step = self.flying.pop(0)
        self._execute(step)
        computed: dict[int, int] = {}
        for i, seq in enumerate(step.seqs):
            n, n_draft = len(step.written[i]), step.drafts[i]
            n_accepted = (b + i) % (n_draft + 1)
            seq.n_inflight -= n
            computed[seq.id] = n - n_draft + n_accepted
            if step.starts[i] + n - n_draft == len(seq.tokens):
                seq.tokens += step.written[i][n - n_draft : n - n_draft + n_accepted]
                if len(seq.tokens) < self.n_ctx:
                    seq.tokens.append(1 + a % 4)
            seq.n_computed += computed[seq.id]
        is_plain = not any(step.drafts) and a % 2
        self.store.commit(step.reservation, {} if is_plain else computed)
        for seq in step.seqs:
            self._resync(seq)

    def fail(self, a: int, b: int) -> None:
        """The oldest step fails after part of its work; all in flight are undone, in reverse."""
        for i, step in enumerate(self.flying):
            self._execute_partly(step, a + i, b + i)
        for step in reversed(self.flying):
            self.store.rollback(step.reservation)
            self._undone(step)
        self.flying.clear()

    def fail_last(self, a: int, b: int) -> None:
        """The newest step fails where no older one has the same sequences."""
        if not self.flying:
            return
        step = self.flying[-1]
        if any(seq.n_inflight != len(w) for seq, w in zip(step.seqs, step.written, strict=True)):
            return
        for older in self.flying[:-1]:
            self._execute(older)
        self._execute_partly(step, a, b)
        self.store.rollback(self.flying.pop().reservation)
        self._undone(step)

    def withdraw(self, a: int, b: int) -> None:
        """The newest step is taken back before any stage saw it."""
        if self.flying and not self.flying[-1].is_done:
            step = self.flying.pop()
            self.store.withdraw(step.reservation)
            for seq, written in zip(step.seqs, step.written, strict=True):
                seq.n_inflight -= len(written)
                assert seq.n_inflight or self.store.committed(seq) == seq.n_computed

    def truncate(self, a: int, b: int) -> None:
        """A sequence at rest goes back."""
        idle = [seq for seq in self.active if not seq.n_inflight]
        if idle:
            seq = idle[a % len(idle)]
            n = b % (seq.n_computed + 1)
            self.store.truncate(seq, n)
            assert self.store.committed(seq) <= n
            if self.exact:
                assert self.store.committed(seq) == n
            seq.n_computed = self.store.committed(seq)

    def release(self, a: int, b: int) -> None:
        """A sequence at rest is over, or preempted."""
        idle = [seq for seq in self.active if not seq.n_inflight]
        if idle:
            seq = idle[a % len(idle)]
            self._leave(seq, b % 4 != 0)
            if b % 3 == 0:
                self.waiting.append(seq)

    def finish(self) -> None:
        """Everything ends; a sequence that fills the memory must then be given it."""
        while self.flying:
            self.land(0, 0)
        for seq in list(self.active):
            self._leave(seq, seq.id % 2 == 0)
        self.store.check()
        assert self.store.free_tokens() == self.capacity, "memory has leaked"
        n = min(self.n_ctx, self.capacity)
        seq = Guest(self._n_ids + 1, [9] * n, shares=False)
        reservation = self.store.reserve([Want(seq, n)])
        assert reservation is not None
        self._execute(Step(reservation, [seq], [0], [seq.tokens], [0]))
        self.store.commit(reservation, {})
        self._leave_for_good(seq)

    # --- memory --------------------------------------------------------------------------------

    def _parts(self, step: Step) -> list[tuple[Memory, Reservation]]:
        parts = step.reservation.parts or (step.reservation,)
        return list(zip(self.memories, parts, strict=True))

    def _execute(self, step: Step) -> None:
        if step.is_done:
            return
        step.is_done = True
        for memory, part in self._parts(step):
            for op in part.ops:
                memory.apply(op)
            for i, seq in enumerate(step.seqs):
                start, placement = step.starts[i], part.placements[i]
                assert memory.read(placement, start) == seq.tokens[:start], "not what was cached"
                memory.write(placement, start, step.written[i])
            memory.check_room()

    def _execute_partly(self, step: Step, a: int, b: int) -> None:
        """Some operations, and after all of them some rows of some sequences."""
        if step.is_done:
            return
        for memory, part in self._parts(step):
            n_ops = a % (len(part.ops) + 2)
            try:
                for op in part.ops[:n_ops]:
                    memory.apply(op)
            except (AssertionError, KeyError):
                assert step is not self.flying[0], "the first failed step had sound operations"
                return
            if n_ops <= len(part.ops):
                continue
            for i, placement in enumerate(part.placements):
                if (b >> i) & 1:
                    n = 1 + b % len(step.written[i])
                    memory.write(placement, step.starts[i], step.written[i][:n])

    def _undone(self, step: Step) -> None:
        for seq, written in zip(step.seqs, step.written, strict=True):
            seq.n_inflight -= len(written)
            if not seq.n_inflight:
                self._resync(seq)

    def _resync(self, seq: Guest) -> None:
        """What a scheduler asks after a step that may have cost a sequence tokens."""
        if not seq.n_inflight:
            n = self.store.committed(seq)
            assert n <= seq.n_computed
            assert n == seq.n_computed or not self.exact
            seq.n_computed = n

    def _leave(self, seq: Guest, keep_cached: bool) -> None:
        self.active.remove(seq)
        self._leave_for_good(seq, keep_cached)

    def _leave_for_good(self, seq: Guest, keep_cached: bool = False) -> None:
        self.store.release(seq, keep_cached)
        assert self.store.committed(seq) == 0
        seq.n_computed = 0


ACTIONS = [
    *[Driver.arrive] * 3,
    *[Driver.step] * 6,
    *[Driver.land] * 5,
    *[Driver.release] * 2,
    Driver.fail,
    Driver.fail_last,
    Driver.withdraw,
    Driver.truncate,
]
"""What a script's first numbers mean."""


def run(driver: Driver, script: Sequence[tuple[int, int, int]]) -> Driver:
    """Carry out a script, looking at the store's books after every action."""
    for action, a, b in script:
        ACTIONS[action](driver, a, b)
        driver.store.check()
    driver.finish()
    return driver
