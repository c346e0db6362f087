"""Where values come from, which one wins, and that `explain` says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.config import Flags, Loaded, ModelConfig, explain, load
from hearthd.config.paths import default_paths
from hearthd.errors import ConfigError

USER = {"HOME": "/home/u"}


def configure(*settings: str, environ: dict[str, str] | None = None, **flags: object) -> Loaded:
    return load(Flags(settings=settings, **flags), environ or USER, 1000)  # type: ignore[arg-type]


def source_of(loaded: Loaded, key: str) -> str:
    return next(row.source for row in explain(loaded) if row.key == key)


def test_nothing_said_serves_the_built_in_model_on_loopback() -> None:
    config = configure().config
    assert config.listen == "127.0.0.1:4327"
    assert config.socket == "/home/u/.local/state/hearthd/hearthd.sock"
    assert list(config.models) == ["canary"]
    assert config.models["canary"].path == "builtin:canary"


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "hearthd.toml"
    file.write_text(
        'listen = "127.0.0.1:1"\n[models.m]\npath = "a.gguf"\ncontext = 1\nthreads = 3\n'
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/20-b.toml").write_text("models.m.context = 3\n")
    (tmp_path / "conf.d/10-a.toml").write_text("models.m.context = 2\nmodels.m.concurrency = 2\n")
    loaded = configure("models.m.threads=9", config=str(file), listen="127.0.0.1:2")
    model = loaded.config.models["m"]
    assert (model.context, model.concurrency, model.threads) == (3, 2, 9)
    assert loaded.config.listen == "127.0.0.1:2"
    assert source_of(loaded, "models.m.path") == f"{file}:3"
    assert source_of(loaded, "models.m.context") == f"{tmp_path}/conf.d/20-b.toml:1"
    assert source_of(loaded, "models.m.threads") == "--set"
    assert source_of(loaded, "listen") == "--listen"
    assert source_of(loaded, "models.m.kv_dtype") == "default"


def test_paths_are_relative_to_where_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "etc/hearthd.toml"
    file.parent.mkdir()
    file.write_text(
        'state = "s"\n[models.a]\npath = "a.gguf"\n[models.s]\npath = "sim:latency_ms=1"\n'
    )
    config = configure(
        config=str(file), models=["b=b.gguf", "c=canary", "e=x=y.gguf"], base=tmp_path
    ).config
    assert {name: model.path for name, model in config.models.items()} == {
        "a": f"{tmp_path}/etc/a.gguf",
        "s": "sim:latency_ms=1",
        "b": f"{tmp_path}/b.gguf",
        "c": "builtin:canary",
        "e": f"{tmp_path}/x=y.gguf",
    }
    assert config.state == f"{tmp_path}/etc/s"


def test_what_drafts_is_a_model_or_a_path(tmp_path: Path) -> None:
    file = tmp_path / "etc/hearthd.toml"
    file.parent.mkdir()
    given = {
        "a": "b", "b": "x/small.gguf", "c": "small.gguf", "d": "canary", "e": "sim:seed=2",
    }  # fmt: skip
    file.write_text("".join(f'[models.{m}]\ndraft = "{draft}"\n' for m, draft in given.items()))
    config = load(Flags(config=str(file)), {"HOME": "/h"}, 1000).config
    assert {name: model.draft for name, model in config.models.items()} == {
        "a": "b",
        "b": f"{tmp_path}/etc/x/small.gguf",
        "c": f"{tmp_path}/etc/small.gguf",
        "d": "builtin:canary",
        "e": "sim:seed=2",
    }


def test_adapters_are_files_with_names(tmp_path: Path) -> None:
    file = tmp_path / "etc/hearthd.toml"
    file.parent.mkdir()
    file.write_text("""[models.m]\nlora = ["x.gguf", { name = "y", path = "~/z.gguf" }]""")
    lora = load(Flags(config=str(file)), {"HOME": "/h"}, 1000).config.models["m"].lora
    assert [(adapter.name, adapter.path) for adapter in lora[:1]] == [
        ("x", f"{tmp_path}/etc/x.gguf")
    ]
    assert lora[1].name == "y"
    assert lora[1].path.startswith("/")


def test_a_users_own_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "hearthd/hearthd.toml"
    file.parent.mkdir()
    file.write_text("limits.queue_requests = 7\n")
    loaded = configure(environ={**USER, "XDG_CONFIG_HOME": str(tmp_path)})
    assert loaded.config.limits.queue_requests == 7


def test_names_with_dots_are_quoted() -> None:
    loaded = configure('models."qwen2.5".context=512')
    assert loaded.config.models["qwen2.5"].context == 512
    assert source_of(loaded, 'models."qwen2.5".context') == "--set"


def test_values_of_settings_are_toml_or_text() -> None:
    config = configure(
        "models.m.path=sim:", "models.m.options.deep={a=[1]}", "memory.budget=1.5GiB",
        "memory.reserve=0", "memory.devices.'gpu:0'=8GB", "log.level=debug",
        "models.m.stages=[{backend='sim',layers=[0,2]},{backend='sim',layers=[2,4]}]",
    ).config  # fmt: skip
    assert config.models["m"].options == {"deep": {"a": [1]}}
    assert config.memory.budget == 3 * 1024**3 // 2
    assert config.memory.devices == {"gpu:0": 8 * 1000**3}
    assert config.models["m"].stages[1].layers == (2, 4)


def test_every_key_is_explained() -> None:
    keys = {row.key for row in explain(configure())}
    assert {
        "listen",
        "models.canary.context",
        "engine.heartbeat_seconds",
        "stop.drain_seconds",
    } <= keys


@pytest.mark.parametrize(
    ("environ", "uid", "socket", "state"),
    [
        ({}, 0, "/run/hearthd/hearthd.sock", "/var/lib/hearthd"),
        (
            {"STATE_DIRECTORY": "/var/lib/h", "RUNTIME_DIRECTORY": "/run/h"},
            999,
            "/run/h/hearthd.sock",
            "/var/lib/h",
        ),
        (
            {"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1"},
            1,
            "/run/user/1/hearthd.sock",
            "/h/.local/state/hearthd",
        ),
        (
            {"HOME": "/h", "XDG_STATE_HOME": "relative"},
            1,
            "/h/.local/state/hearthd/hearthd.sock",
            "/h/.local/state/hearthd",
        ),
    ],
)
def test_default_paths(environ: dict[str, str], uid: int, socket: str, state: str) -> None:
    paths = default_paths(environ, uid)
    assert (str(paths.socket), str(paths.state)) == (socket, state)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        configure(config=str(tmp_path / "absent.toml"))


def test_a_table_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "hearthd.toml"
    file.write_text("[models.canary]\n[models.b]\npath = 'sim:'\n[stop]\n")
    config = load(Flags(config=str(file)), {}, 0).config
    assert list(config.models) == ["canary", "b"]
    assert config.models["canary"] == ModelConfig()
    file.write_text("[keys.x]\n")
    with pytest.raises(ConfigError, match=r"hearthd.toml.*keys.x.hash is missing"):
        load(Flags(config=str(file)), {}, 0)
