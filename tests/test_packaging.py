"""The distribution holds every import package, and only those; version and changelog exist."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_on_disk_is_in_the_wheel() -> None:
    tool = project()["tool"]
    assert isinstance(tool, dict)
    packages = tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    roots = ("daemon", "backends", "tui")
    on_disk = [
        str(p.parent.relative_to(ROOT)) for r in roots for p in (ROOT / r).glob("*/__init__.py")
    ]
    assert sorted(packages) == sorted(on_disk)


def test_every_package_says_that_it_is_typed() -> None:
    for package in ("daemon/hearthd", "backends/hearth_backends", "tui/hearth_tui"):
        assert (ROOT / package / "py.typed").exists()


def test_no_folder_shadows_a_package() -> None:
    for folder in ("packaging", "systemd", "tests", "bench", "daemon", "backends", "tui"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_every_runtime_dependency_has_its_line() -> None:
    told = (ROOT / "docs" / "dependencies.md").read_text()
    meta = project()["project"]
    assert isinstance(meta, dict)
    extras = meta["optional-dependencies"]
    for requirement in [*meta["dependencies"], *(r for e in extras.values() for r in e)]:
        name = requirement.split(">")[0].split("=")[0].split("<")[0].split("[")[0]
        assert name in told, f"docs/dependencies.md says nothing of {name}"
