"""Canary: a tiny language model whose answers are exact, for tests of whatever runs it."""

from pathlib import Path

PATH = Path(__file__).with_name("canary.gguf")
