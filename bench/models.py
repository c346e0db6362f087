#!/usr/bin/env python3
"""Writes GGUF files of well-known shapes: random weights, or the canary inside (real cost, checkable text)."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import resources
from pathlib import Path

from hearth_bench.blocks import KINDS
from hearth_bench.modelfile import RandomWeights, write_model
from hearth_bench.nesting import NestedWeights, copies_for, nested_shape, read_small
from hearth_bench.shapes import SHAPES, Shape
from hearth_bench.vocabulary import copied, made_up


def write_random(path: Path, shape: Shape, kind: str, vocab: Path | None, seed: int) -> None:
    """A model of that shape with random weights; raises ValueError for a vocabulary that is too big."""
    vocabulary = made_up(shape.n_vocab) if vocab is None else copied(vocab).padded(shape.n_vocab)
    weights = RandomWeights(shape, seed)
    write_model(path, shape, kind, vocabulary, weights, f"{shape.name} random {kind}")


def write_nested(path: Path, shape: Shape, kind: str, small: Path, copies: int | None) -> None:
    """A model of that shape that speaks like the small one; raises ValueError if it has no room."""
    model = read_small(small)
    copies = copies or copies_for(kind)
    nested = nested_shape(model.shape, shape, copies)
    weights = NestedWeights(model, nested, copies)
    vocabulary = copied(small).padded(shape.n_vocab)
    name = f"{model.shape.name} in {shape.name} {kind}"
    write_model(path, nested, kind, vocabulary, weights, name)


def canary_path() -> Path:
    """The built-in model."""
    return Path(str(resources.files("hearth_backends.canary") / "canary.gguf"))


def main(argv: list[str] | None = None) -> int:
    """Write one file; 2 when it cannot be written as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=KINDS, default="Q4_0")
    parser.add_argument("--vocab", type=Path, help="copy tokenizer and template of this GGUF")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--canary", action="store_true", help="nest the built-in model")
    parser.add_argument("--small", type=Path, help="nest this Llama instead of the canary")
    parser.add_argument("--copies", type=int, choices=(1, 2), help="default: 2 for Q4_0, else 1")
    given = parser.parse_args(argv)
    shape = SHAPES[given.shape]
    began = time.monotonic()
    try:
        if given.canary or given.small:
            small = given.small or canary_path()
            write_nested(given.out, shape, given.type, small, given.copies)
        else:
            write_random(given.out, shape, given.type, given.vocab, given.seed)
    except (ValueError, OSError) as error:
        print(f"models.py: {error}", file=sys.stderr)
        return 2
    size = given.out.stat().st_size
    print(f"{given.out}: {size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
