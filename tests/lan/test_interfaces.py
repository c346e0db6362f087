"""On which networks a box is announced, and with which addresses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hearthd.lan.identity import box_id
from hearthd.lan.interfaces import Interface, Reach, choose, is_outer, look

LAN = Interface("eth0", ("10.77.0.1", "fe80::1", "2001:db8::1"))
WIRELESS = Interface("wlan0", ("192.168.1.9",))
LOOP = Interface("lo", ("127.0.0.1", "::1"), is_loopback=True)
INNER = [
    Interface("docker0", ("172.17.0.1",), is_bridge=True),
    Interface("veth12ab", ("169.254.1.1",)),
    Interface("virbr0", ("192.168.122.1",), is_bridge=True),
    Interface("tun0", ("10.8.0.2",), is_ethernet=False, is_tunnel=True),
    Interface("tap3", ("10.9.0.2",), is_tunnel=True),
    Interface("ppp0", ("10.10.0.2",), is_ethernet=False),
    Interface("tailscale0", ("100.64.0.1",)),
    replace(LAN, is_multicast=False),
]


def test_every_network_that_leads_out() -> None:
    reach = choose([LOOP, LAN, *INNER, WIRELESS], (), "0.0.0.0")
    assert reach == Reach(("10.77.0.1", "192.168.1.9"), ("10.77.0.1", "2001:db8::1", "192.168.1.9"))


@pytest.mark.parametrize("interface", INNER, ids=lambda interface: interface.name)
def test_networks_inside_the_machine(interface: Interface) -> None:
    assert not is_outer(interface)
    assert choose([interface], (), "0.0.0.0") == Reach((), ())


def test_a_bridge_to_the_wire_is_a_network() -> None:
    assert is_outer(Interface("br0", ("10.0.0.1",), is_bridge=True, joins_hardware=True))


def test_an_address_that_is_listened_on_is_the_only_one_told() -> None:
    assert choose([LAN, WIRELESS], (), "192.168.1.9") == Reach(("192.168.1.9",), ("192.168.1.9",))
    assert choose([LAN, WIRELESS], (), "10.0.0.1") == Reach((), ())


def test_interfaces_of_the_operators_choice() -> None:
    assert choose([LAN, *INNER, WIRELESS], ("docker0",), "::").sources == ("172.17.0.1",)
    assert choose([replace(LAN, is_up=False)], ("eth0",), "::") == Reach((), ())


def test_a_network_without_ipv4_is_not_announced_on() -> None:
    assert choose([replace(LAN, addresses=("fe80::1",))], (), "::") == Reach((), ())


def test_this_machine_has_a_loopback_interface() -> None:
    (loop,) = [interface for interface in look() if "127.0.0.1" in interface.addresses]
    assert loop.is_loopback
    assert not is_outer(loop)


def test_the_identity_is_made_once(tmp_path: Path) -> None:
    made = box_id(tmp_path)
    assert box_id(tmp_path) == made
    (tmp_path / "box-id").write_text("rubbish")
    assert box_id(tmp_path) not in ("rubbish", made)
