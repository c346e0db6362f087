"""Backends of Hearth: what runs a model on a device, behind one contract."""
