"""Prefixes that outlive their place in key-value memory: in host memory, and on disk over a restart."""
