"""The command line: words, flags, exit codes, one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd import __version__
from hearthd.main import main


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"hearthd {__version__}\n" * 2


def test_help_shows_words_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in (
        "config explain",
        "config check",
        "--model NAME=PATH",
        "--set KEY=VALUE",
        "canary",
    ):
        assert word in text


def test_explain_says_where_values_came_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "h.toml"
    file.write_text("[limits]\nqueue_requests = 5\n")
    assert main(["--config", str(file), "config", "explain", "--set", "log.level=debug"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["limits.queue_requests"] == ["5", f"{file}:2"]
    assert rows["log.level"] == ['"debug"', "--set"]
    assert rows["listen"] == ['"127.0.0.1:4327"', "default"]


def test_check_names_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--model", "a=sim:", "--model", "b=x.gguf"]) == 0
    assert capsys.readouterr().out == "the configuration is good; models: a, b\n"


@pytest.mark.parametrize("word", [[], ["config", "check"], ["config", "explain"]])
def test_an_error_of_the_configuration_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], word: list[str]
) -> None:
    assert main([*word, "--set", "limts.x=1"]) == 2
    assert capsys.readouterr().err == (
        "hearthd: --set: unknown key limts; did you mean 'limits'?\n"
    )


@pytest.mark.parametrize("argv", [["frobnicate"], ["config"], ["--nonsense"]])
def test_what_nobody_knows_is_exit_code_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(argv)
    assert done.value.code == 2


def test_a_state_directory_that_cannot_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--state", str(tmp_path / "file/state")]) == 2
    assert "state = " in capsys.readouterr().err
