"""docs/configuration.md has a table for every section of the configuration, and a row for every key."""

from __future__ import annotations

import re
import tomllib
import typing
from pathlib import Path

import msgspec
import pytest

from hearthd.config import schema
from hearthd.config.load import Flags, load

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
SECTIONS: dict[str, type[schema.Section]] = {
    "[models.NAME]": schema.ModelConfig,
    "[models.NAME.cache]": schema.ModelCacheConfig,
    "[keys.NAME]": schema.KeyConfig,
    "[keys.NAME.limits]": schema.KeyLimitsConfig,
    "[tls]": schema.TlsConfig,
    "[limits]": schema.LimitsConfig,
    "[engine]": schema.EngineConfig,
    "[memory]": schema.MemoryConfig,
    "[cache]": schema.CacheConfig,
    "[power]": schema.PowerConfig,
    "[batch]": schema.BatchConfig,
    "[hardware]": schema.HardwareConfig,
    "[lan]": schema.LanConfig,
    "[log]": schema.LogConfig,
    "[stop]": schema.StopConfig,
}

LISTED = (schema.StageConfig, schema.AdapterConfig)
"""Tables in lists, which are documented in the rows of those."""


def rows_of(title: str) -> set[str]:
    """The keys in the table under a heading."""
    part = re.split(rf"^#+ {re.escape(title)}$", PAGE, maxsplit=1, flags=re.MULTILINE)[1]
    table = re.split(r"^#", part, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def plain_keys(kind: type[schema.Section]) -> set[str]:
    """The keys of a section that are no tables with a heading of their own."""
    hints = typing.get_type_hints(kind)
    tables = {
        field.name
        for field in msgspec.structs.fields(kind)
        for hint in (hints[field.name], *typing.get_args(hints[field.name]))
        if isinstance(hint, type) and issubclass(hint, schema.Section) and hint not in LISTED
    }  # fmt: skip
    return {f.encode_name for f in msgspec.structs.fields(kind) if f.name not in tables}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_documented_and_none_that_is_not(title: str) -> None:
    assert rows_of(f"`{title}`") == plain_keys(SECTIONS[title])


def test_the_top_level_too() -> None:
    assert rows_of("Top level") == plain_keys(schema.Config)


def test_no_section_is_missing() -> None:
    sections = {
        kind
        for kind in vars(schema).values()
        if isinstance(kind, type) and issubclass(kind, schema.Section)
    }
    assert sections - {schema.Section, schema.Config, *LISTED} == set(SECTIONS.values())
    for kind in LISTED:
        for name in kind.__struct_fields__:
            assert re.search(rf"`{name}`|{name} = ", PAGE)


def test_the_example_can_be_used(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    assert tomllib.loads(example[1])
    file = tmp_path / "hearthd.toml"
    file.write_text(example[1])
    config = load(Flags(config=str(file)), {"HOME": "/h"}, 1000).config
    assert config.keys["nightly"].limits.concurrency == 8
