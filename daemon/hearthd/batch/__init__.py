"""Batches: files of requests that are answered when nobody else needs the models."""
