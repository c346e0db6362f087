"""Quantizing: the engine's side of `hearthd quantize`."""
