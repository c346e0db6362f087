"""Plans as files: what is written is read again; what was edited beyond the room, the layers or the devices is refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned_boxes import GIB, MIB, Watch, card, facts, processor

from hearthd.config import ModelConfig
from hearthd.errors import ConfigError, HearthError, InsufficientMemory
from hearthd.leased import DeviceLeases, Leased
from hearthd.placement.candidates import Budgets, links_of, units_of
from hearthd.placement.ledger import Ledger
from hearthd.placement.placement import request_of
from hearthd.placement.plan_file import parsed, placed_by, written
from hearthd.placement.planner import plan
from hearthd.placement.request import Request
from hearthd.plan import budgets_left
from hearthd.serving.deployments import Revision
from hearthd.serving.placer import Placer
from hearthd.serving.replica import Replica

DEVICES = (processor(), card())
FACTS = facts(DEVICES)
CONFIG = ModelConfig(concurrency=2)
BUDGETS = Budgets(700 * MIB, {"cpu:0": 700 * MIB, "cuda:0": 600 * MIB})


def text() -> str:
    units, _ = units_of(DEVICES, [], FACTS, BUDGETS)
    request: Request = request_of(CONFIG, FACTS)
    found = plan(request, units, links_of(DEVICES)).plan
    assert found is not None
    return written(found, "m")


def placed(edited: str) -> str:
    units, _ = units_of(DEVICES, [], FACTS, BUDGETS)
    return placed_by(parsed(edited, "plan.toml"), CONFIG, FACTS, units).words


def test_what_is_written_is_read_again() -> None:
    units, _ = units_of(DEVICES, [], FACTS, BUDGETS)
    placement = placed_by(parsed(text(), "plan.toml"), CONFIG, FACTS, units)
    assert placement.devices == {"cpu:0", "cuda:0"}
    assert placement.context is not None
    assert [place.layers for place in placement.places][-1] == (3, 8)


def lines_of(edited: str) -> list[int]:
    return [n for n, line in enumerate(edited.splitlines(), 1) if line.startswith("layers")]


def test_edited_beyond_a_budget() -> None:
    edited = text().replace("layers = [0, 3]", "layers = [0, 7]").replace("[3, 8]", "[7, 8]")
    with pytest.raises(
        InsufficientMemory, match=rf"plan.toml:{lines_of(edited)[0]}: layers 0 to 6 need .* bytes\)"
    ):
        placed(edited)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[3, 8]", "[3, 7]", r"plan.toml:\d+: the stages end at layer 7"),
        ("[3, 8]", "[4, 8]", r"plan.toml:\d+: layers must begin at 3"),
        ('"cpu:0"', '"cpu:9"', r"plan.toml:\d+: there is no cpu:9 with gguf .*; there are: cpu:0"),
        ("context", "contxt", "plan.toml: .*contxt"),
        ("[[stages]]", "[stages", "plan.toml: "),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, message: str) -> None:
    assert old in text()
    with pytest.raises((ConfigError, InsufficientMemory), match=message):
        placed(text().replace(old, new))


async def test_a_model_goes_where_its_file_says(tmp_path: Path) -> None:
    watch = Watch(DEVICES)
    ledger = Ledger({"cpu": 700 * MIB, "cuda:0": 600 * MIB})
    placer = Placer(ledger, watch, ask=watch.facts_of)
    path = tmp_path / "plan.toml"
    path.write_text(text())
    config = ModelConfig(plan=str(path))
    made = Revision(1, config, (Replica("m", lambda work: None),))
    granted = await placer.place(made.replicas[0], made)
    assert granted.placement.why == f"as {path} says"
    load = made.load_frame("m", granted.placement)
    assert [stage.layers for stage in load.stages] == [(0, 3), (3, 8)]
    assert len(ledger.leases) == 2
    for lease in granted.leases:
        ledger.release(lease)
    path.write_text(text().replace("[0, 3]", "[0, 7]").replace("[3, 8]", "[7, 8]"))
    with pytest.raises(HearthError, match=rf"{path}:\d+: layers 0 to 6 need"):
        await placer.place(made.replicas[0], made)
    assert not ledger.leases


def test_leases_of_a_running_daemon_count_but_its_own_come_free() -> None:
    leased = Leased(
        (
            DeviceLeases("cpu:0", "cpu", 3 * GIB, {"other": 2 * GIB}),
            DeviceLeases("cuda:0", "gpu", 1 * GIB, {"m": 4 * GIB}),
        )
    )
    budgets = budgets_left(leased, DEVICES, "m", Budgets(9 * GIB, {}))
    assert budgets.device_bytes == {"cpu:0": 3 * GIB, "cuda:0": 5 * GIB}
    assert budgets.host_bytes == 3 * GIB
    assert leased.held("cpu:0") == {"other": 2 * GIB}
