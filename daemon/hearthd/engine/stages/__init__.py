"""Stages that have a process of their own."""
