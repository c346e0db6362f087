"""Bookkeeping of key-value memory: one protocol, one store for each way of holding it."""
