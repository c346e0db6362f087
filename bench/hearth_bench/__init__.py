"""Measures OpenAI endpoints and the engine itself; the scripts in `bench/` are its commands."""
