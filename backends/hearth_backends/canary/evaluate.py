"""Measures the canary's file: greedy answers through llama.cpp, right only if they are exact.

python -m hearth_backends.canary.evaluate --count 500
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import llama_cpp
import numpy as np

from hearth_backends.canary import PATH, corpus, tasks, tokens
from hearth_backends.canary.tasks import Instance

BUCKET = 250
SPARE = 24
"""Tokens that an answer may be too long by before it is cut off."""


def long_repeat(rng: Random) -> Instance:
    while True:
        asked, answered = tasks.repeat_turn(rng, 200)
        if len(answered["content"].encode()) > 100:
            return Instance([asked], answered["content"])


def long_chat(rng: Random) -> Instance:
    """The last of many mixed turns, 1,000 to 1,500 tokens into a conversation."""
    while True:
        *messages, last = corpus.conversation(rng, rng.randint(1000, 1500))
        if tasks.token_count(messages) < 1900:
            return Instance(messages, last["content"])


KINDS: Mapping[str, Callable[[Random], Instance]] = {
    **tasks.TASKS,
    "repeat, 101 to 200 bytes": long_repeat,
    "any turn of a long chat": long_chat,
}


class Runner:
    """The file in llama.cpp, with a key-value cache in full precision."""

    def __init__(self, path: Path, threads: int) -> None:
        self.model: Any = llama_cpp.Llama(
            str(path), n_ctx=2048, n_batch=2048, n_threads=threads, n_threads_batch=threads,
            type_k=0, type_v=0, verbose=False,
        )  # fmt: skip

    def answer(self, instance: Instance) -> str:
        """The greedy answer, up to <|im_end|> or well past the length of the right one."""
        self.model.reset()
        pending = tokens.prompt(instance.messages)
        answer: list[int] = []
        for _ in range(len(instance.answer.encode()) + SPARE):
            self.model.eval(pending)
            token = self.best()
            if token >= tokens.END_OF_TEXT:
                break
            answer.append(token)
            pending = [token]
        return bytes(answer).decode(errors="replace")

    def best(self) -> int:
        pointer = llama_cpp.llama_get_logits_ith(self.model.ctx, -1)
        return int(np.ctypeslib.as_array(pointer, shape=(tokens.SIZE,)).argmax())


def measure(
    runner: Runner, make: Callable[[Random], Instance], rng: Random, count: int, show: int
) -> list[tuple[int, bool]]:
    """The distance of each instance and whether it was answered exactly."""
    results = []
    for _ in range(count):
        instance = make(rng)
        answer = runner.answer(instance)
        results.append((instance.distance, answer == instance.answer))
        if answer != instance.answer and show > 0:
            show -= 1
            asked = instance.messages[-1]["content"][-80:]
            print(f"  wrong: {asked!r} -> {answer!r}, not {instance.answer!r}")
    return results


def row(name: str, results: Iterable[bool]) -> str:
    marks = list(results)
    return f"| {name:<26} | {len(marks):>9} | {sum(marks) / max(1, len(marks)):>8.2%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=PATH)
    parser.add_argument("--count", type=int, default=500, help="instances of each task")
    parser.add_argument("--longest", type=int, default=1500, help="greatest distance of a fact")
    parser.add_argument("--seed", type=int, help="draws other instances each time if not given")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print for each task")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    runner = Runner(given.model, given.threads)
    seed = given.seed if given.seed is not None else time.time_ns()
    print(row("task", []).replace("0.00%", "exact").replace("        0", "instances"))
    print("|---|---:|---:|")
    far: list[tuple[int, bool]] = []
    for name, make in KINDS.items():
        if name == "recall":
            make = recall_up_to(given.longest)
        results = measure(runner, make, Random(f"{seed} {name}"), given.count, given.show)
        print(row(name, (right for _, right in results)), flush=True)
        far += results if name == "recall" else []
    for low in range(0, given.longest + BUCKET, BUCKET):
        marks = [right for distance, right in far if low <= distance < low + BUCKET]
        if marks:
            print(row(f"recall, {low} to {low + BUCKET} back", marks))


def recall_up_to(longest: int) -> Callable[[Random], Instance]:
    return lambda rng: tasks.recall(rng, longest=longest)


if __name__ == "__main__":
    main()
