"""Where copies go when they load: the only device, the planner's choice, the next best after a failure, or nowhere in words."""

from __future__ import annotations

import pytest
from planned_boxes import GIB, MIB, Watch, card, processor
from serving_rig import Start, read

from hearthd.config import ModelConfig
from hearthd.errors import InsufficientMemory, ModelFailed, UnknownDevice
from hearthd.hardware.device import Device
from hearthd.placement.ledger import Ledger, Need
from hearthd.serving.deployments import Revision
from hearthd.serving.placer import Placer
from hearthd.serving.replica import Replica
from hearthd.telemetry.alerts import model_alerts


def revision(config: ModelConfig) -> Revision:
    replicas = tuple(Replica("m", lambda work: None) for _ in range(config.replicas))
    return Revision(1, config, replicas)


def box(*devices: Device, **budgets: int) -> tuple[Placer, Watch, Ledger]:
    watch = Watch(devices)
    ledger = Ledger({"cpu": 8 * GIB} | {name.replace("_", ":"): n for name, n in budgets.items()})
    return Placer(ledger, watch, ask=watch.facts_of), watch, ledger


def replica_places(placer: Placer, replica: Replica) -> str:
    return "+".join(sorted(placer.devices_of(replica)))


async def test_one_device_needs_no_probe() -> None:
    placer, watch, ledger = box(processor())
    made = revision(ModelConfig())
    granted = await placer.place(made.replicas[0], made)
    assert (granted.placement.origin, watch.asked) == ("only", [])
    load = made.load_frame("m", granted.placement)
    assert (load.device, load.backend, load.stages) == ("cpu:0", None, [])
    assert load.budget_bytes == 8 * GIB
    assert ledger.leases == ()


async def test_the_faster_device_where_it_suffices() -> None:
    placer, _, ledger = box(processor(), card(), cuda_0=18 * GIB)
    made = revision(ModelConfig())
    granted = await placer.place(made.replicas[0], made)
    assert granted.placement.words == "cuda:0 with cuda, layers 0 to 7"
    assert granted.leases == ledger.leases
    load = made.load_frame("m", granted.placement)
    assert (load.device, load.backend, load.stages) == ("cuda:0", "cuda", [])
    assert (load.context, load.kv_tokens, load.budget_bytes) == (None, None, 18 * GIB)


async def test_cut_where_no_device_has_room() -> None:
    placer, _, ledger = box(processor(), card(), cuda_0=600 * MIB, cpu=700 * MIB)
    made = revision(ModelConfig())
    placement = (await placer.place(made.replicas[0], made)).placement
    load = made.load_frame("m", placement)
    assert {stage.device for stage in load.stages} == {"cpu:0", "cuda:0"}
    assert load.stages[0].layers is not None
    assert load.stages[1].layers == (load.stages[0].layers[1], 8)
    assert load.context is not None
    assert load.kv_tokens is not None
    for lease in ledger.leases:
        assert lease.need.total_bytes <= (ledger.budget_bytes(lease.need.device) or 0)


async def test_what_others_hold_is_said(start: Start) -> None:
    placer, _, ledger = box(processor(), card(), cuda_0=200 * MIB, cpu=1 * GIB)
    ledger.grant("other", Need(600 * MIB, 0, 0, "cpu:0"))
    made = revision(ModelConfig())
    with pytest.raises(InsufficientMemory, match="once other is unloaded"):
        await placer.place(made.replicas[0], made)
    assert len(ledger.leases) == 1


async def test_wrong_names_get_the_list_of_real_ones() -> None:
    placer, _, _ = box(processor(), card(), cuda_0=18 * GIB)
    for config in (ModelConfig(devices=("cuda:7",)), ModelConfig(require=("cuda:7",))):
        made = revision(config)
        with pytest.raises(UnknownDevice, match=r"no device 'cuda:7'; there are: cpu:0, cuda:0"):
            await placer.place(made.replicas[0], made)


async def test_a_device_that_failed_is_left_out_the_next_time() -> None:
    placer, _, _ = box(processor(), card(), cuda_0=18 * GIB)
    made = revision(ModelConfig())
    granted = await placer.place(made.replicas[0], made, frozenset({("cuda:0", "cuda")}))
    assert granted.placement.devices == {"cpu:0"}


async def test_copies_have_devices_of_their_own() -> None:
    placer, _, _ = box(processor(), card(0), card(1), cuda_0=18 * GIB, cuda_1=18 * GIB)
    made = revision(ModelConfig(replicas=4))
    places = []
    for replica in made.replicas[:3]:
        granted = await placer.place(replica, made)
        placer.take(replica, granted.placement)
        places.append(granted.placement.devices)
    assert sorted(map(sorted, places)) == [["cpu:0"], ["cuda:0"], ["cuda:1"]]
    with pytest.raises(InsufficientMemory, match="no device for another copy"):
        await placer.place(made.replicas[3], made)


async def test_more_copies_than_devices() -> None:
    placer, _, _ = box(processor(0), processor(1))
    made = revision(ModelConfig(replicas=4))
    for replica in made.replicas[:2]:
        granted = await placer.place(replica, made)
        placer.take(replica, granted.placement)
    assert {replica_places(placer, replica) for replica in made.replicas[:2]} == {"cpu:0", "cpu:1"}
    with pytest.raises(InsufficientMemory, match="no device for another copy"):
        await placer.place(made.replicas[2], made)


async def test_the_policy() -> None:
    placer, _, _ = box(processor(), card(), cuda_0=18 * GIB)
    made = revision(ModelConfig(avoid=("gpu",)))
    assert (await placer.place(made.replicas[0], made)).placement.devices == {"cpu:0"}


async def test_stages_on_memory_nodes_keep_to_their_processors() -> None:
    placer, _, _ = box(processor(0), processor(1), cpu=900 * MIB, cpu_0=500 * MIB, cpu_1=500 * MIB)
    made = revision(ModelConfig())
    load = made.load_frame("m", (await placer.place(made.replicas[0], made)).placement)
    found = [(stage.device, stage.ledger or stage.device, stage.cpus) for stage in load.stages]
    assert sorted(found) == [("cpu:0", "cpu:0", (0, 1)), ("cpu:0", "cpu:1", (2, 3))]


# --- with engines ------------------------------------------------------------------------------

TWO_NODES = (processor(0, "sim", "cpu:0"), processor(1, "sim", "cpu:1"))


async def test_a_stage_that_dies_while_it_loads(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:die_on=cpu:0")}, watch=Watch(TWO_NODES))
    status = await rig.until_state("ready")
    assert [p.words for p in status.placements] == ["cpu:1 with sim, layers 0 to 7"]
    (alert,) = [alert for alert in model_alerts([status]) if alert.kind == "load_failed"]
    assert (alert.level, alert.subject) == ("warning", "m")
    assert "not loaded on cpu:0 with sim: the engine was ended by SIGKILL" in alert.message
    assert len(await read(rig.ask())) > 0
    assert {lease.need.device for lease in rig.ledger.leases} == {"cpu:1"}


async def test_nothing_is_left_of_a_model_that_loads_nowhere(start: Start) -> None:
    rig = start(
        {"m": ModelConfig(path="sim:die_on=cpu:0", require=("cpu:0",))}, watch=Watch(TWO_NODES)
    )
    status = await rig.until_state("failed")
    assert status.error is not None
    assert "ended by SIGKILL" in status.error
    assert "nowhere else: " in status.error
    assert rig.ledger.leases == ()
    with pytest.raises(ModelFailed):
        rig.ask()
