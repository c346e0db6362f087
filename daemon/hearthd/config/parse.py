"""Parse: one layer of values into a Config, or an error that names file, key and nearest match."""

from __future__ import annotations

import difflib
import ipaddress
import re
import types
import typing
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from hearthd.config.paths import DefaultPaths
from hearthd.config.schema import ANONYMOUS, BUILTIN_MODEL, Config, ModelConfig, Section
from hearthd.config.sources import Key, Layer, Source, Value
from hearthd.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
"""Of a Unix socket's address on Linux."""
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?\s*", re.IGNORECASE)
_HASH = re.compile(r"(?:sha256:)?[0-9a-fA-F]{64}")
_POWERS = {"": 0, "B": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse(values: Layer, defaults: DefaultPaths) -> Config:
    """The configuration; raises ConfigError."""
    values = dict(values)
    builtin = Source("default", Path.cwd())
    values.setdefault(("state",), Value(str(defaults.state), builtin))
    values.setdefault(("socket",), Value(str(defaults.socket), builtin))
    for key, value in values.items():
        is_plan = len(key) == 3 and key[0] == "models" and key[2] == "plan"
        if is_plan or key in (("state",), ("socket",), ("tls", "certificate"), ("tls", "key")):
            values[key] = _absolute(value)
        elif len(key) == 3 and key[0] == "models" and key[2] == "path":
            values[key] = _model_path(value)
        elif len(key) == 3 and key[0] == "models" and key[2] == "draft":
            values[key] = _draft(value, {key[1] for key in values if key[0] == "models"})
        elif len(key) == 3 and key[0] == "models" and key[2] == "lora":
            values[key] = _adapters(value)
    config: Config = _section(Config, (), values)
    if not config.models:
        config = msgspec.structs.replace(config, models={"canary": ModelConfig()})
    _check(config, values)
    return config


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "[V6]:PORT"; raises ValueError."""
    host, colon, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets: [::1]:4327")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("it must look like HOST:PORT")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; a name that is not "localhost" may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_size(value: object) -> object:
    """Bytes of "12GiB" (binary) or "12GB" (decimal); anything else as it is, for the type check."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        unit = (match[2] or "").upper()
        base = 1000 if unit.endswith("B") and not unit.endswith("IB") else 1024
        return int(float(match[1]) * base ** _POWERS[unit[:1]])
    return value


# --- structs -----------------------------------------------------------------------------------


def _section(kind: type[Any], prefix: Key, values: Layer) -> Any:
    """A struct from the values below a prefix."""
    if prefix in values and values[prefix].value != {}:  # a table may be empty: [models.canary]
        raise _wrong(values[prefix], prefix, "it must be a table")
    known = typing.get_type_hints(kind, include_extras=True)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    hints = {name: known[field.name] for name, field in fields.items()}
    below = {key: value for key, value in values.items() if key[: len(prefix)] == prefix}
    inside = {key: value for key, value in below.items() if key != prefix}
    for key, value in inside.items():
        name = key[len(prefix)]
        if name not in hints:
            raise _unknown(value.source, (*prefix, name), hints)
    given = dict.fromkeys(key[len(prefix)] for key in inside)
    for name, field in fields.items():
        if field.required and name not in given:
            raise _missing(prefix, name, below)
    return kind(
        **{fields[name].name: _field(hints[name], (*prefix, name), inside) for name in given}
    )


def _field(hint: Any, key: Key, values: Layer) -> Any:
    """The value of one field: a table, tables by name, or a plain value."""
    if isinstance(hint, type) and issubclass(hint, Section):
        return _section(hint, key, values)
    element = _element(hint)
    if key not in values:  # a table where the field holds a dict, or should hold a plain value
        names = dict.fromkeys(k[len(key)] for k in values if k[: len(key)] == key)
        if element is None:
            first = next(value for k, value in values.items() if k[: len(key)] == key)
            raise _wrong(first, key, "it is not a table")
        if isinstance(element, type) and issubclass(element, Section):
            return {name: _section(element, (*key, name), values) for name in names}
        if element is Any:
            return _tree(key, values)
        return {name: _field(element, (*key, name), values) for name in names}
    found = values[key]
    raw = parse_size(found.value) if _is_size(hint) else found.value
    try:
        return msgspec.convert(raw, hint)
    except msgspec.ValidationError as error:
        raise _wrong(found, key, _expected(hint) or _in_words(error)) from None


def _tree(prefix: Key, values: Layer) -> dict[str, Any]:
    """The values below a prefix as nested tables again."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        if key[: len(prefix)] == prefix:
            at = tree
            for name in key[len(prefix) : -1]:
                at = at.setdefault(name, {})
            at[key[-1]] = value.value
    return tree


def _element(hint: Any) -> Any:
    """The type of the values of a dict; None for anything else."""
    if typing.get_origin(hint) is dict:
        return typing.get_args(hint)[1]
    return None


def _expected(hint: Any) -> str | None:
    """What a field takes, where that says more than the type does."""
    if typing.get_origin(hint) is typing.Literal:
        return f"it must be one of {', '.join(map(str, typing.get_args(hint)))}"
    if _is_size(hint):
        return "it must be a number of bytes or a size such as 12GiB"
    return None


def _is_size(hint: Any) -> bool:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(map(_is_size, typing.get_args(hint)))
    return any(
        isinstance(note, msgspec.Meta) and (note.extra or {}).get("unit") == "bytes"
        for note in getattr(hint, "__metadata__", ())
    )


# --- values ------------------------------------------------------------------------------------


def _absolute(value: Value) -> Value:
    if not isinstance(value.value, str) or not value.value:
        return value
    path = value.source.base / Path(value.value).expanduser()
    return Value(str(path), value.source)


def _model_path(value: Value) -> Value:
    """A file's path made absolute; "canary" and what has a scheme ("sim:") stay names."""
    if value.value == "canary":
        return Value(BUILTIN_MODEL, value.source)
    if isinstance(value.value, str) and re.match(r"[a-z]+:", value.value):
        return value
    return _absolute(value)


def _draft(value: Value, models: Collection[str]) -> Value:
    """The name of a model as it is; what can only be a path as a model's path."""
    given = value.value
    if not isinstance(given, str) or given in models:
        return value
    is_path = given == "canary" or "/" in given or ":" in given or given.endswith(".gguf")
    return _model_path(value) if is_path else value


def _adapters(value: Value) -> Value:
    """Adapters with absolute paths and with names: a text alone is a path."""
    if not isinstance(value.value, list | tuple):
        return value
    found: list[Any] = []
    for given in value.value:
        adapter = {"path": given} if isinstance(given, str) else given
        if isinstance(adapter, dict) and isinstance(adapter.get("path"), str):
            path = _model_path(Value(adapter["path"], value.source)).value
            adapter = {"name": Path(str(path)).stem, **adapter, "path": path}
        found.append(adapter)
    return Value(found, value.source)


def check_openness(config: Config, values: Layer, n_stored_keys: int) -> None:
    """Raise ConfigError where anybody on the network could use the box; `split_address` has passed.

    `n_stored_keys` were given out beside those of the configuration.
    """
    host, _ = split_address(config.listen)
    if is_loopback(host) or config.keys or n_stored_keys or config.insecure:
        return
    listen = values.get(("listen",), Value(config.listen, Source("default", Path())))
    raise _wrong(
        listen,
        ("listen",),
        "anybody on the network could use it, for there are no keys; say 'hearth keys add NAME' while "
        "it listens on 127.0.0.1, or add [keys.NAME], or set insecure = true",
    )


def _check(config: Config, values: Layer) -> None:
    """What the types cannot say; raises ConfigError."""
    listen = values.get(("listen",), Value(config.listen, Source("default", Path())))
    try:
        split_address(config.listen)
    except ValueError as error:
        raise _wrong(listen, ("listen",), str(error)) from None
    _check_names(config, values)
    _check_keys(config, values)
    _check_drafts(config, values)
    _check_embedder(config, values)
    _check_tls(config, values)
    if len(config.socket.encode()) > MAX_SOCKET_PATH_BYTES:
        raise _wrong(
            values[("socket",)],
            ("socket",),
            f"a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes",
        )


def _check_names(config: Config, values: Layer) -> None:
    """A name that clients may use stands for one model."""
    owners = {name: name for name in config.models}
    for model, settings in config.models.items():
        for alias in settings.aliases:
            if owners.setdefault(alias, model) != model:
                key = ("models", model, "aliases")
                raise _wrong(values[key], key, f"{alias!r} stands for {owners[alias]} already")
    for model, settings in config.models.items():
        key = ("models", model, "lora")
        names = [adapter.name for adapter in settings.lora]
        for name in names:
            if not re.fullmatch(r"[^\s:]+", name):
                raise _wrong(values[key], key, f"a name without spaces and colons, not {name!r}")
            if names.count(name) > 1:
                raise _wrong(values[key], key, f"two adapters are called {name}")
            if f"{model}:{name}" in owners:
                raise _wrong(values[key], key, f"{model}:{name} is a model already")


def _check_keys(config: Config, values: Layer) -> None:
    """Each key has a hash of its own, and models that there are."""
    owners: dict[str, str] = {}
    for name, key in config.keys.items():
        at = ("keys", name, "hash")
        if name == ANONYMOUS:
            raise _wrong(values[at], at, "requests without a key have this name")
        if _HASH.fullmatch(key.hash) is None:
            raise _wrong(
                values[at], at, "it must be the 64 hexadecimal digits of the key's SHA-256"
            )
        owner = owners.setdefault(key.hash[-64:].lower(), name)
        if owner != name:
            raise _wrong(values[at], at, f"it is the key of {owner} already")
        unknown = set(key.models) - set(config.models)
        if unknown:
            at = ("keys", name, "models")
            raise _wrong(values[at], at, f"there is no model {min(unknown)!r}")


# --- errors ------------------------------------------------------------------------------------


def dotted(key: Iterable[str]) -> str:
    """A key as TOML writes it."""
    return ".".join(part if re.fullmatch(r"[\w-]+", part) else f'"{part}"' for part in key)


def _check_drafts(config: Config, values: Layer) -> None:
    """A model that guesses for another is a file, or another model that there is."""
    for name, model in config.models.items():
        draft, at = model.draft, ("models", name, "draft")
        if draft is None:
            continue
        if draft == name:
            raise _wrong(values[at], at, "a model cannot draft for itself")
        if draft not in config.models and "/" not in draft and ":" not in draft:
            near = difflib.get_close_matches(draft, config.models, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise _wrong(values[at], at, f"there is no model {draft!r}{hint}")


def _check_embedder(config: Config, values: Layer) -> None:
    """What compares questions is a model that there is."""
    name, at = config.cache.embedder, ("cache", "embedder")
    if name and name not in config.models:
        raise _wrong(values[at], at, f"there is no model {name!r}")


def _check_tls(config: Config, values: Layer) -> None:
    """A key belongs to a certificate."""
    at = ("tls", "key")
    if config.tls.key is not None and config.tls.certificate is None:
        raise _wrong(values[at], at, "of which tls.certificate?")


def _unknown(source: Source, key: Key, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(key[-1], list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return ConfigError(f"{source}: unknown key {dotted(key)}; {hint}")


def _missing(prefix: Key, name: str, below: Layer) -> ConfigError:
    where = next((str(value.source) for value in below.values()), dotted(prefix))
    return ConfigError(f"{where}: {dotted((*prefix, name))} is missing")


def _wrong(value: Value, key: Key, why: str) -> ConfigError:
    return ConfigError(f"{value.source}: {dotted(key)} = {_shown(value.value)}: {why}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _in_words(error: msgspec.ValidationError) -> str:
    """ "Expected `int`, got `str` - at `$[0].layers`" without its quotes and dollar."""
    text = str(error).replace("`", "").replace(" - at $", ", at ")
    return text[:1].lower() + text[1:]
