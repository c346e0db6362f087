"""Dialogs that every screen uses: each is a screen of its own, with a result of a known type."""
