"""Bodies: JSON becomes a struct, or a 400 that names the field."""

from __future__ import annotations

import logging
import re
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from hearthd.errors import InvalidRequest

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`$")
_EXPECTED = re.compile(r"^Expected `(?P<expected>[^`]+)`(?P<rest>.*)$", re.DOTALL)
_QUOTED = re.compile(r"`([^`]+)`")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


async def read(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as a struct; raises InvalidRequest. Whatever the content type says, it is JSON."""
    try:
        data = await request.read()
    except web.RequestPayloadError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InvalidRequest(f"The body cannot be read: {reason}", code="invalid_body") from error
    asked = decode(data, decoder)
    if log.isEnabledFor(logging.DEBUG):
        _tell_ignored(data, type(asked))
    return asked


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The struct that JSON text holds; raises InvalidRequest with the place of what is wrong."""
    if not data.strip():
        raise InvalidRequest("The request has no body; it takes a JSON object", code="invalid_json")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _of_field(str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The body is not UTF-8: {error.reason}", code="invalid_json"
        ) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(_of_syntax(str(error), len(data)), code="invalid_json") from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply", code="invalid_json") from error


def _of_syntax(text: str, n_bytes: int) -> str:
    if text == "Input data was truncated":
        return f"The body is not valid JSON: it ends too early, at byte {n_bytes}"
    return f"The body is not valid JSON: {text.removeprefix('JSON is malformed: ')}"


def _of_field(text: str) -> InvalidRequest:
    """What msgspec says of a field, in the words of JSON, with the path as `param`."""
    match = _AT.match(text)
    what, path = text, ""
    if match is not None:
        what, path = match["what"], (match["path"] or "").removeprefix(".")
        if match["key"]:
            what = f"a key is wrong: {what}"
    missing = _MISSING.match(what)
    if missing is not None:
        path = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidRequest(f"{path}: is required", param=path, code="missing_required_parameter")
    expected = _EXPECTED.match(what)
    if expected is not None:
        wanted = [_WORDS.get(word, word) for word in expected["expected"].split(" | ")]
        wanted = [word for word in wanted if word != "null"] or wanted
        what = f"expected {' or '.join(wanted)}{_QUOTED.sub(_word, expected['rest'])}"
    if not path:
        return InvalidRequest(f"The body is wrong: {what}")
    return InvalidRequest(f"{path}: {what}", param=path)


def _word(match: re.Match[str]) -> str:
    return _WORDS.get(match[1], match[1])


def _tell_ignored(data: bytes, kind: type[msgspec.Struct]) -> None:
    """Name the fields nobody reads: real clients send many, so they are no error."""
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    sent: dict[str, Any] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    ignored = sorted(set(sent) - known)
    if ignored:
        log.debug("fields ignored: %s", ", ".join(ignored))
