"""Quantizing: a model's weights in fewer bits, written as a checkpoint that every backend reads."""
