"""The GGUF backend: llama.cpp through its low-level API."""
