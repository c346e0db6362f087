"""The configuration: what it may say, where it comes from, and where each value came from."""

from hearthd.config.load import Flags, Loaded, Row, explain, load
from hearthd.config.parse import split_address
from hearthd.config.schema import (
    BUILTIN_MODEL,
    Config,
    EngineConfig,
    KeyConfig,
    KeyLimitsConfig,
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
    "Flags",
    "KeyConfig",
    "KeyLimitsConfig",
    "LimitsConfig",
    "Loaded",
    "LogConfig",
    "MemoryConfig",
    "ModelConfig",
    "Row",
    "StopConfig",
    "explain",
    "load",
    "split_address",
]
