"""docs/api.md names every route, every field, every metric and every error code that there is."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hearthd import errors
from hearthd.access.action import Action
from hearthd.access.certificate import CertificateFacts
from hearthd.api import schema
from hearthd.api.box import Box
from hearthd.api.devices import DeviceList
from hearthd.api.key_management import KeyInfo, KeyRequest, NewKey, Revoked
from hearthd.api.openai_batches import BatchRequest
from hearthd.api.openai_embeddings import EmbeddingRequest
from hearthd.api.openai_models import ModelDetails
from hearthd.api.operating import Operated
from hearthd.api.refusals import CHAT, COMMON, COMPLETION, TOKENIZE
from hearthd.api.rerank import RerankRequest
from hearthd.api.routes import ROUTES
from hearthd.api.top import CacheLoad, DeviceLoad, Top, TopAnswer, WatchedModel
from hearthd.batch.counts import BatchCollector, Now
from hearthd.batch.counts import Counts as BatchCounts
from hearthd.cache.counts import CacheCollector, Counts
from hearthd.hardware.checks import Calibration, Check, PairReport
from hearthd.hardware.device import CpuFacts, Device, GpuFacts, PciLink, Reading
from hearthd.log import Line
from hearthd.serving.under_way import UnderWay
from hearthd.telemetry.alerts import Alert
from hearthd.telemetry.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
_SUFFIXES = {"counter": "_total", "info": "_info"}
NAMES = set(re.findall(r"`\"?([A-Za-z_/.{}0-9]+)\"?", PAGE))


def test_every_route_is_documented() -> None:
    documented = set(re.findall(r"^\| `(GET|POST|DELETE) ([^`]+)` \|", PAGE, re.MULTILINE))
    served = {(route.method, route.path.replace(":.+", "")) for route in ROUTES}
    assert documented == served


@pytest.mark.parametrize(
    "kind",
    [
        schema.CompletionRequest,
        schema.ChatRequest,
        schema.TokenizeRequest,
        schema.DetokenizeRequest,
        EmbeddingRequest,
        RerankRequest,
        BatchRequest,
        ModelDetails,
        DeviceList,
        KeyRequest,
        KeyInfo,
        NewKey,
        Revoked,
        Action,
        Box,
        CertificateFacts,
        Top,
        DeviceLoad,
        WatchedModel,
        CacheLoad,
        TopAnswer,
        Operated,
        UnderWay,
        Alert,
        Line,
        PairReport,
        Check,
        Calibration,
        Device,
        CpuFacts,
        GpuFacts,
        PciLink,
        Reading,
    ],
)
def test_every_field_is_documented(kind: type[msgspec.Struct]) -> None:
    assert set(kind.__struct_encode_fields__) <= NAMES


def test_every_error_that_answers_is_documented() -> None:
    codes, todo = set(), [errors.HearthError]
    while todo:
        error = todo.pop()
        todo += error.__subclasses__()
        codes.add(error.code)
    of_commands = {"config_error", "already_running", "quantize_failed"}
    not_raised_yet = {"model_loading"}
    assert codes - of_commands - not_raised_yet <= NAMES


def test_there_is_one_tree_of_errors_and_all_of_it_is_drawn() -> None:
    drawn = re.findall(r"^[│├└─ ]*(\w+) +(\d+|-) ", errors.__doc__ or "", re.MULTILINE)
    told = {name: None if status == "-" else int(status) for name, status in drawn}
    kinds, todo = {}, errors.HearthError.__subclasses__()
    while todo:
        error = todo.pop()
        todo += error.__subclasses__()
        kinds[error.__name__] = error
        assert error.__module__ == errors.__name__
    assert set(kinds) == set(told)
    assert {name for name in told if told[name] not in (None, kinds[name].status)} == set()


def test_every_metric_is_documented() -> None:
    metrics = Metrics()
    metrics.watch(list)
    metrics.watch_keys(list)
    metrics.watch_devices(list)
    metrics.add(CacheCollector(Counts(), list))
    metrics.add(BatchCollector(BatchCounts(), lambda: Now({}, 0, 0, 0)))
    families = list(text_string_to_metric_families(metrics.render().decode()))
    names = {f.name + _SUFFIXES.get(f.type, "") for f in families}
    assert names
    assert names - NAMES == set()


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        (schema.CompletionRequest, COMPLETION),
        (schema.ChatRequest, CHAT),
        (schema.TokenizeRequest, TOKENIZE),
    ],
)
def test_refused_fields_are_fields(kind: type[msgspec.Struct], rules: dict[str, object]) -> None:
    assert set(rules) <= set(kind.__struct_fields__)
    assert set(COMMON) <= set(CHAT) & set(COMPLETION)
