"""What the Debian package is made of: locked versions, a manual and completions that know every word."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hearth_tui.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the manual and the completions are written to."""
    share = tmp_path_factory.mktemp("share")
    for program, target in (("manual", share / "man"), ("completions", share)):
        subprocess.run([sys.executable, str(PACKAGING / program), str(target)], check=True)
    return share


def test_the_manual_names_every_command_and_option(share: Path) -> None:
    pages = {
        name: (share / f"man/man{section}/{name}.{section}").read_text().replace("\\-", "-")
        for name, section in (("hearth", 1), ("hearthd", 8))
    }
    for command in COMMANDS:
        assert f'.SS "hearth {command}"' in pages["hearth"]
    for word in (
        "config explain",
        "config check",
        "selftest",
        "calibrate",
        "plan",
        "simulate",
        "quantize",
        "version",
    ):
        assert f'.SS "hearthd {word}"' in pages["hearthd"]
    for option in ("--config", "--model", "--set", "--listen", "--state"):
        assert f"\\fB{option}\\fR" in pages["hearthd"]
    assert "\\fB--temperature\\fR" in pages["hearth"]
    assert "SIGHUP" in pages["hearthd"]


def test_every_word_of_the_daemon_is_among_those_of_the_manual(share: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "hearthd", "--help"], capture_output=True, text=True, check=True
    ).stdout
    words = re.findall(r"(?m)^  ([a-z]+(?: [a-z]+)?)   *\S", told.partition("words:")[2])
    assert "config explain" in words
    page = (share / "man/man8/hearthd.8").read_text()
    assert [word for word in words if f'.SS "hearthd {word}"' not in page] == []


def completed(share: Path, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    program = words[0]
    script = f"""
        source {share}/bash-completion/completions/{program}
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        $(complete -p {program} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_bash_completes_commands_words_and_options(share: Path) -> None:
    assert set(completed(share, "hearth", "")) >= set(COMMANDS)
    assert completed(share, "hearth", "ca") == ["cache"]
    assert "stats" in completed(share, "hearth", "cache", "")
    assert set(completed(share, "hearth", "ask", "--")) >= {"--model", "--temperature"}
    assert set(completed(share, "hearth", "cache", "--order", "")) == {"recent", "hits", "saved"}
    assert set(completed(share, "hearthd", "config", "")) == {"explain", "check"}


def test_zsh_is_given_the_same(share: Path) -> None:
    text = (share / "zsh/vendor-completions/_hearth").read_text()
    assert text.startswith("#compdef hearth")
    assert [command for command in COMMANDS if command not in text] == []


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.split(r"[><=;\[ ]", requirement)[0].lower().replace("_", "-").replace(".", "-")
        for requirement in [*project["dependencies"], *extras["gguf"], *extras["onnx"]]
    }
    lock = (PACKAGING / "requirements.lock").read_text()
    locked = {name.lower() for name in re.findall(r"(?m)^([\w.-]+)==", lock)}
    missing = wanted - locked - {"llama-cpp-python"}
    assert not missing, f"{missing}: run `make lock`"
    assert lock.count("--hash=sha256:") >= len(locked)


def test_the_configuration_that_is_installed_can_be_used(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hearthd", "--config", str(PACKAGING / "hearthd.toml"),
         "--state", str(tmp_path), "config", "check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    commented = re.sub(r"(?m)^# ?(\[|\w+ = )", r"\1", (PACKAGING / "hearthd.toml").read_text())
    tomllib.loads(commented)  # what is suggested in it is TOML, too


def test_packages_and_scripts_agree_on_the_name_of_the_user() -> None:
    for name in ("hearthd.service", "hearthd.socket", "hearthd.sysusers", "hearthd.tmpfiles"):
        assert "hearth" in (ROOT / "systemd" / name).read_text()


def test_shell_scripts_parse() -> None:
    for name in (
        "build-deb",
        "stage-venv",
        "lock",
        "portable-llama-cpp",
        "hearth.launcher",
        "hearthd.launcher",
    ):
        first = (PACKAGING / name).read_text().splitlines()[0]
        subprocess.run([first.removeprefix("#!"), "-n", str(PACKAGING / name)], check=True)
