"""What cannot be used is an error that names the file, the line, the key and the nearest match."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.config import Flags, check_openness, load
from hearthd.errors import ConfigError

HASH = "0aF" * 21 + "0"


def refusal(*settings: str, **flags: object) -> str:
    with pytest.raises(ConfigError) as refused:
        load(Flags(settings=settings, **flags), {"HOME": "/h"}, 1000)  # type: ignore[arg-type]
    assert "\n" not in refused.value.message
    return refused.value.message


def test_an_unknown_key_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text('# models\n[models."qwen2.5"] # the big one\npath = "x"\n contxt = 3\n')
    assert refusal(config=str(file)) == (
        f"{file}:4: unknown key models.\"qwen2.5\".contxt; did you mean 'context'?"
    )


def test_toml_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text("listen = \n")
    assert "line 1" in refusal(config=str(file))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("limts.x=1", "--set: unknown key limts; did you mean 'limits'?"),
        ("engine.zzz=1", "unknown key engine.zzz; there are heartbeat_seconds, "),
        ("limits=3", "limits = 3: it must be a table"),
        ("models.m=3", "models.m = 3: it must be a table"),
        ("limits.queue_requests={a=1}", "limits.queue_requests = 1: it is not a table"),
        ("limits.queue_requests=true", "expected int, got bool"),
        ("limits.queue_requests=-1", "expected int >= 0"),
        ("models.m.context=0", "models.m.context = 0: expected int >= 1"),
        ("models.m.context=abc", "models.m.context = 'abc': expected int | null, got str"),
        ("models.m.devices=[]", "expected array of length >= 1"),
        ("models.m.kv_dtype=f8", "it must be one of f16, f32, q8_0, fp8"),
        ("models.m.stages=[{backend='x',layer=[1,2]}]", "unknown field layer"),
        ("models.m.stages=[{device='cpu:0'}]", "missing required field backend"),
        ("memory.budget=lots", "a number of bytes or a size such as 12GiB"),
        ("memory.budget=-1", "a number of bytes or a size such as 12GiB"),
        ("engine.heartbeat_seconds=0", "expected float > 0"),
        ("keys.a.weight=2", "--set: keys.a.hash is missing"),
        ("keys.a.hash=secret", "keys.a.hash = 'secret': it must be the 64 hexadecimal digits"),
        (f"keys.a={{hash='{HASH}',class='urgent'}}", "one of interactive, normal, batch"),
        (
            f"keys.a={{hash='{HASH}',clas='batch'}}",
            "unknown key keys.a.clas; did you mean 'class'?",
        ),
        (f"keys.a={{hash='{HASH}',weight=0}}", "expected float >= 0.001"),
        (f"keys.a={{hash='{HASH}',models=['x']}}", "there is no model 'x'"),
        (f"keys.a={{hash='{HASH}',limits={{concurrency=0}}}}", "expected int >= 1"),
        (f"keys.anonymous.hash='{HASH}'", "requests without a key have this name"),
        ("models.m.draft=tiny", "models.m.draft = 'tiny': there is no model 'tiny'"),
        ("models={m={draft='smal'},small={threads=1}}", "no model 'smal'; did you mean 'small'?"),
        ("models.m.draft=m", "a model cannot draft for itself"),
        ("models.m.draft=1", "expected str | null, got int"),
        ("models={m={draft='n'},n={threads=1}}", ""),
        ("models.m.lora=x.gguf", "expected array, got str"),
        ("models.m.lora=['a/x.gguf','b/x.gguf']", "two adapters are called x"),
        ("models.m.lora=[{name='a:b',path='x'}]", "without spaces and colons, not 'a:b'"),
        ("models.m.lora=[{name='x'}]", "missing required field path"),
        ("models.m.lora=[{path='x',nam='y'}]", "unknown field nam"),
        ("models={m={lora=['x.gguf']},'m:x'={threads=1}}", "m:x is a model already"),
        ("models.m.lora=['x.gguf']", ""),
        ("listen=127.0.0.1", "it must look like HOST:PORT"),
        ("listen=127.0.0.1:70000", "it must look like HOST:PORT"),
        ("listen=::1:80", "brackets"),
        ("listen=3", "listen = 3: expected str, got int"),
        ("models.a.aliases=['b','b2']", ""),
        ("x", "it must look like key=value"),
        ("=x", "it must look like key=value"),
        ("a b=1", "--set a b=1: "),
    ],
)
def test_settings(setting: str, message: str) -> None:
    if message:
        assert message in refusal(setting)
    else:
        load(Flags(settings=[setting]), {"HOME": "/h"}, 1000)


@pytest.mark.parametrize("model", ["m", "m=", "=x.gguf"])
def test_models_of_the_command_line(model: str) -> None:
    assert "NAME=PATH" in refusal(models=[model])


@pytest.mark.parametrize("address", ["0.0.0.0:4327", "192.168.1.5:1", "[::]:1", "box.example:80"])
def test_an_address_of_the_network_is_refused_unless_told(address: str) -> None:
    loaded = load(Flags(listen=address), {"HOME": "/h"}, 1000)
    with pytest.raises(ConfigError, match=r"--listen: listen = .* insecure = true"):
        check_openness(loaded.config, loaded.values, 0)
    check_openness(loaded.config, loaded.values, 1)  # a key that was given out
    settings = ["insecure=true"]
    open_to_all = load(Flags(listen=address, settings=settings), {"HOME": "/h"}, 1000)
    check_openness(open_to_all.config, open_to_all.values, 0)


def test_an_address_of_the_network_is_allowed_with_keys() -> None:
    settings = [f"keys.a.hash=sha256:{HASH}", "keys.a.class=interactive"]
    loaded = load(Flags(listen="0.0.0.0:1", settings=settings), {"HOME": "/h"}, 1000)
    check_openness(loaded.config, loaded.values, 0)
    assert loaded.config.keys["a"].klass == "interactive"


def test_one_key_cannot_have_two_names() -> None:
    said = refusal(f"keys.a.hash={HASH}", f"keys.b.hash='sha256:{HASH.lower()}'")
    assert "it is the key of a already" in said


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:4327", "[::1]:65535", "127.9.9.9:1"])
def test_loopback_needs_nothing(address: str) -> None:
    loaded = load(Flags(listen=address), {"HOME": "/h"}, 1000)
    check_openness(loaded.config, loaded.values, 0)
    assert loaded.config.listen == address


def test_one_name_cannot_stand_for_two_models() -> None:
    settings = ("models.a.aliases=['x']", "models.b.aliases=['x']")
    assert "'x'" in refusal(*settings)
    assert "'b'" in refusal("models.a.aliases=['b']", "models.b.path=sim:")


def test_a_socket_with_too_long_a_path() -> None:
    assert "107 bytes" in refusal(socket="/" + "x" * 120)
