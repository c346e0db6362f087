"""hearthd: the control plane of a Hearth box, and the engine processes it owns."""

__version__ = "0.1.0"
