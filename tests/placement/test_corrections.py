"""What a load was measured to take counts for the next one of its kind, also after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hearthd.placement.corrections import Corrections, Key
from hearthd.placement.holding import Holding
from hearthd.placement.ledger import Ledger, Need
from hearthd.placement.measured import MeasuredFile

KEY = Key("/m.gguf", "gguf", "cpu:0", "layers 0-8")
NEED = Need(100, 50, 10, "cpu:0")


def test_the_next_lease_is_what_was_measured() -> None:
    ledger = Ledger({"cpu": 1000})
    first = Holding(ledger, "m")
    assert first.ask(NEED, KEY).need.total_bytes == 160
    first.measured(230)
    first.give_back()
    second = Holding(ledger, "m")
    assert second.ask(NEED, KEY).need.total_bytes == 230
    second.measured(230)
    second.measured(231)  # less than a hundredth more: noise
    assert ledger.corrections.workspaces("/m.gguf") == {("cpu:0", "gguf"): 80}


def test_a_load_that_had_more_to_do_counts_once() -> None:
    corrections = Corrections()
    for peak, leased in ((400, 400), (230, 400), (230, 230)):
        corrections.note(KEY, NEED, peak)
        corrections.note(KEY, NEED, peak + 1, is_new=False)
        assert corrections.corrected(KEY, NEED).total_bytes == leased


def test_weights_and_keys_are_never_less_than_planned() -> None:
    corrections = Corrections()
    corrections.note(KEY, NEED, 120)  # nobody has used the room for keys and values yet
    assert corrections.corrected(KEY, NEED).total_bytes == 150


def test_other_settings_go_by_the_latest_of_the_pair() -> None:
    corrections = Corrections()
    corrections.note(KEY, NEED, 230)
    roomy = replace(NEED, kv_bytes=500)
    other = Key(KEY.model, KEY.backend, KEY.device, "layers 0-8, more")
    assert corrections.corrected(other, roomy).total_bytes == 100 + 500 + 80
    elsewhere = Key(KEY.model, "onnx", KEY.device, KEY.settings)
    assert corrections.corrected(elsewhere, NEED) == NEED


def test_only_what_is_the_processors_is_laid_to_it() -> None:
    ledger = Ledger({"cpu": 1000, "cuda:0": 1000})
    holding = Holding(ledger, "m")
    holding.ask(NEED, KEY)
    holding.ask(replace(NEED, device="cuda:0"), Key("/m.gguf", "cuda", "cuda:0", ""))
    holding.measured(900)
    assert ledger.corrections.workspaces("/m.gguf") == {}


async def test_it_outlives_a_restart(tmp_path: Path) -> None:
    before = Corrections()
    kept = MeasuredFile(tmp_path, before)
    await kept.open()
    before.note(KEY, NEED, 230)
    before.note(KEY, NEED, 260)
    await kept.close()
    after = Corrections()
    again = MeasuredFile(tmp_path, after)
    await again.open()
    assert after.corrected(KEY, NEED).total_bytes == 260
    await again.close()
