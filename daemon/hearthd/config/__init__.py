"""The configuration: what it may say, where it comes from, and where each value came from."""

from hearthd.config.schema import (
    BUILTIN_MODEL,
    Config,
    EngineConfig,
    LimitsConfig,
    LogConfig,
    MemoryConfig,
    ModelConfig,
    StopConfig,
)

__all__ = [
    "BUILTIN_MODEL",
    "Config",
    "EngineConfig",
    "LimitsConfig",
    "LogConfig",
    "MemoryConfig",
    "ModelConfig",
    "StopConfig",
]
