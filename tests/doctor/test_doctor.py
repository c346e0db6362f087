"""Each trouble of a box: laid down in a tree of files, told in one line, with the command that mends it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from fake_machine import GIB, FakeMachine
from hearth_process import hearth
from hearthd_process import hearthd, running

from hearthd.access.selfsigned import make, own_files
from hearthd.access.tables import ACCESS
from hearthd.config import Flags
from hearthd.config.schema import (
    AdapterConfig,
    Config,
    MemoryConfig,
    ModelConfig,
    StageConfig,
    TlsConfig,
)
from hearthd.doctor import examination
from hearthd.doctor.account import Account, account_of, barrier
from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Disk, Patient
from hearthd.doctor.sockets import holder_of
from hearthd.hardware.backend_view import BackendDevice, BackendsSilent, BackendView
from hearthd.hardware.tree import Tree
from hearthd.store.database import Database

HEARTH = Account("hearth", 4321, frozenset({4321}))
NOW = datetime(2027, 6, 1, tzinfo=UTC)
HERE = BackendView(backends={"gguf": [BackendDevice("cpu:0", "cpu", "Test CPU")]})


@dataclass
class Ward:
    """A box in a folder that everybody may enter; what a test does not spoil is well."""

    folder: Path
    machine: FakeMachine
    config: Config
    disk: Disk = field(default_factory=lambda: Disk(100 * GIB, 50 * GIB, read_only=False))
    view: BackendView | BackendsSilent = HERE
    now: datetime = NOW

    def patient(self) -> Patient:
        return Patient(
            self.config,
            HEARTH,
            is_root=True,
            tree=Tree(self.machine.root),
            disk=lambda _path: self.disk,
            backends=self.backends,
            unix_now=lambda: self.now.timestamp(),
        )

    def backends(self) -> BackendView:
        if isinstance(self.view, BackendsSilent):
            raise self.view
        return self.view

    def found(self, name: str, **changes: object) -> list[Finding]:
        """What a check says that is not well."""
        patient = replace(self.patient(), **changes)  # type: ignore[arg-type]  # each call gives fields of their type
        return [f for f in examination.CHECKS[name](patient) if f.outcome != "ok"]

    def one(self, name: str, **changes: object) -> tuple[str, str, str | None]:
        """The only such finding: outcome, cause, command."""
        (finding,) = self.found(name, **changes)
        return finding.outcome, finding.cause, finding.fix

    def set(self, **fields: object) -> None:
        self.config = msgspec.structs.replace(self.config, **fields)

    def file(self, name: str, mode: int = 0o644, n_bytes: int = 10) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(n_bytes)
        path.chmod(mode)
        return path

    def listens(self, protocol: str, address: str, inode: int, state: str = "0A") -> None:
        """A line of /proc/net."""
        name = f"proc/net/{protocol}"
        before = self.machine.root / name
        text = (
            before.read_text().rstrip("\n")
            if before.exists()
            else "  sl  local_address rem_address st"
        )
        line = f"   0: {address} 00000000:0000 {state} 0:0 0:0 0 0 0 {inode} 1"
        self.machine.write(name, f"{text}\n{line}")

    def process(self, pid: int, comm: str, inode: int, cgroup: str = "0::/") -> None:
        """A process that has a socket."""
        self.machine.write(f"proc/{pid}/comm", comm)
        self.machine.write(f"proc/{pid}/cgroup", cgroup)
        folder = self.machine.root / f"proc/{pid}/fd"
        folder.mkdir()
        (folder / "3").symlink_to(f"socket:[{inode}]")
        (folder / "4").symlink_to("/dev/null")


@pytest.fixture
def ward() -> Iterator[Ward]:
    with tempfile.TemporaryDirectory(prefix="hearth") as made:
        folder = Path(made)
        folder.chmod(0o755)
        machine = FakeMachine(folder / "root")
        machine.host()
        machine.write("proc/cpuinfo", "processor : 0\nflags : fpu avx avx2 fma")
        machine.write("etc/group", "root:x:0:\nvideo:x:44:\nrender:x:105:\nhearth:x:4321:")
        machine.write("etc/passwd", "root:x:0:0:::\nhearth:x:4321:4321:::")
        state = folder / "state"
        state.mkdir(mode=0o777)
        state.chmod(0o777)
        yield Ward(folder, machine, Config(state=str(state), models={"m": ModelConfig()}))


def test_a_box_that_is_well(ward: Ward) -> None:
    heard: list[Finding] = []
    report = examination.examine(ward.patient(), heard.append)
    assert report.passed
    assert [f for f in heard if f.outcome != "ok"] == []
    assert report.findings == heard
    assert {f.check for f in heard} >= {"configuration", "models", "disk", "port", "mdns", "tls"}


def test_a_check_that_fails_itself_is_told_and_the_others_go_on(ward: Ward) -> None:
    ward.config = msgspec.structs.replace(ward.config, listen="nonsense")
    report = examination.examine(ward.patient(), lambda _: None)
    assert [(f.check, f.outcome) for f in report.findings if f.outcome == "skipped"] == [
        ("access", "skipped"), ("port", "skipped"),
    ]  # fmt: skip
    assert report.findings[-1].check == "backends"


# --- configuration, state, disk --------------------------------------------------------------------


def test_a_bad_configuration(ward: Ward) -> None:
    file = ward.file("h.toml")
    outcome, cause, fix = ward.one("configuration", config_error="h.toml:3: no", config_file=file)
    assert (outcome, cause) == ("failed", "h.toml:3: no")
    assert fix == f"editor {file} && hearthd config check"


def test_open_to_others(ward: Ward) -> None:
    ward.set(listen="0.0.0.0:4327")
    outcome, cause, fix = ward.one("access", config_file=Path("/etc/h.toml"))
    assert outcome == "failed"
    assert "there is no key" in cause
    assert fix == (
        "sed -i 's/^listen *=/#&/' /etc/h.toml && systemctl restart hearthd && hearth keys add NAME"
    )
    ward.set(insecure=True)
    assert "whoever reaches 0.0.0.0:4327" in ward.one("access")[1]


def test_keys_that_cannot_be_read(ward: Ward) -> None:
    path = ward.folder / "state" / "access.db"
    Database.open(path, ACCESS).close()
    assert ward.found("access") == []
    path.write_bytes(b"no database" * 500)
    outcome, cause, fix = ward.one("access")
    assert outcome == "failed"
    assert "cannot be read (file is not a database)" in cause
    assert fix == f"mv {path} {path}.damaged && systemctl restart hearthd"


def test_a_state_directory_that_cannot_be_written(ward: Ward) -> None:
    state = ward.folder / "state"
    state.chmod(0o755)
    assert ward.one("state") == (
        "failed", f"hearth cannot write {state}", f"chown -R hearth: {state}",
    )  # fmt: skip
    assert ward.one("state", is_root=False)[2] == f"sudo chown -R hearth: {state}"
    state.chmod(0o777)
    (state / "devices.db").touch(0o600)
    assert "devices.db: has hearthd run as another user?" in ward.one("state")[1]
    ward.folder.chmod(0o700)
    _, cause, fix = ward.one("state")
    assert cause == f"hearth does not get through {ward.folder} to {state}"
    assert fix == f"chmod o+x {ward.folder}"


def test_a_state_directory_that_is_not_there(ward: Ward) -> None:
    ward.set(state=str(ward.folder / "no" / "state"))
    outcome, _, fix = ward.one("state")
    assert (outcome, fix) == (
        "failed", f"install -d -o hearth -m 750 {ward.folder}/no/state",
    )  # fmt: skip
    ward.machine.write("usr/lib/systemd/system/hearthd.service", "")
    assert ward.found("state") == []


def test_disks(ward: Ward) -> None:
    ward.machine.write("proc/mounts", f"/dev/a / ext4 rw 0 0\n/dev/b {ward.folder} ext4 ro 0 0")
    ward.disk = Disk(100 * GIB, 50 * GIB, read_only=True)
    assert ward.one("state")[2] == f"mount -o remount,rw {ward.folder}"
    ward.disk = Disk(100 * GIB, GIB // 2, read_only=False)
    assert ward.one("state") == (
        "warning", f"only 512.0 MiB of 100.0 GiB are free for {ward.folder}/state",
        f"du -xhd2 {ward.folder} | sort -h | tail",
    )  # fmt: skip
    ward.disk = Disk(100 * GIB, 0, read_only=False)
    ward.file("state/cache.db", 0o666, 1 << 27)
    assert ward.one("state")[::2] == ("failed", "hearth cache drop --all")


# --- models ----------------------------------------------------------------------------------------


def test_models_that_cannot_be_read(ward: Ward) -> None:
    closed = ward.file("models/closed.gguf", 0o600)
    hidden = ward.file("private/hidden.gguf")
    hidden.parent.chmod(0o750)
    lora = ward.file("models/lora.gguf", 0o640)
    checkpoint = ward.file("checkpoint/model.safetensors", 0o600).parent
    gone = ward.folder / "models" / "gone.gguf"
    ward.set(
        models={
            "fine": ModelConfig(path=str(ward.file("models/fine.gguf"))),
            "closed": ModelConfig(path=str(closed), lora=(AdapterConfig(path=str(lora)),)),
            "hidden": ModelConfig(path=str(hidden), draft=str(gone)),
            "folder": ModelConfig(path=str(checkpoint), draft="fine"),
            "sim": ModelConfig(path="sim:"),
        }
    )
    found = ward.found("models")
    assert {f.outcome for f in found} == {"failed"}
    assert [(f.cause, f.fix) for f in found] == [
        (f"models.closed: hearth cannot read {closed}: the file {closed} is closed to it", f"chmod o+r {closed}"),
        (f"models.closed.lora: hearth cannot read {lora}: the file {lora} is closed to it", f"chmod o+r {lora}"),
        (f"models.hidden: hearth cannot read {hidden}: the folder {hidden.parent} is closed to it",
         f"chmod o+x {hidden.parent}"),
        (f"models.hidden.draft: there is no {gone}", "find / -xdev -name gone.gguf"),
        (f"models.folder: hearth cannot read {checkpoint}: the file {checkpoint}/model.safetensors is closed to it",
         f"chmod o+r {checkpoint}/model.safetensors"),
    ]  # fmt: skip


def test_the_service_sees_no_home_folders(ward: Ward) -> None:
    ward.set(models={"m": ModelConfig(path="/home/ann/m.gguf")})
    ward.machine.write("usr/lib/systemd/system/hearthd.service", "")
    outcome, cause, fix = ward.one("models")
    assert outcome == "failed"
    assert "sees no home folders" in cause
    assert fix == "mv /home/ann/m.gguf /srv/m.gguf and say so in models.m.path"


def test_too_little_memory(ward: Ward) -> None:
    big, small = ward.file("big.gguf", n_bytes=30 * GIB), ward.file("small.gguf", n_bytes=10 * GIB)
    ward.set(models={"big": ModelConfig(path=str(big)), "small": ModelConfig(path=str(small))})
    outcome, cause, fix = ward.one("memory")
    assert outcome == "failed"
    assert cause == "40.0 GiB of weights for 28.8 GiB of memory; the largest is big with 30.0 GiB"
    assert fix == (
        f"hearthd quantize {big} --to int4 --out {big}-int4  # and say so in models.big.path"
    )
    ward.set(models={"big": ModelConfig(path=str(big), devices=("cuda:0",))})
    assert ward.found("memory") == []


def test_memory_that_others_have_or_that_the_configuration_keeps_back(ward: Ward) -> None:
    path = ward.file("m.gguf", n_bytes=20 * GIB)
    ward.set(models={"m": ModelConfig(path=str(path))})
    ward.machine.host(available=10 * GIB)
    assert ward.one("memory") == (
        "warning",
        "20.0 GiB of weights for 28.8 GiB of memory would fit, but others have taken all but 9.0 GiB of it",
        "ps -eo rss,pid,args --sort=-rss | head",
    )
    ward.set(memory=MemoryConfig(budget=GIB))
    outcome, cause, fix = ward.one("memory", config_file=Path("/etc/h.toml"))
    assert (outcome, cause) == (
        "failed", "20.0 GiB of weights for 1.0 GiB of memory: memory.budget is too small",
    )  # fmt: skip
    assert fix == "sed -i '/^budget *=/d' /etc/h.toml && systemctl restart hearthd"


# --- ports -----------------------------------------------------------------------------------------


def test_the_port_is_taken(ward: Ward) -> None:
    ward.listens("tcp", "0100007F:10E7", 77)
    assert ward.one("port") == (
        "failed", "another process listens on 127.0.0.1:4327", "sudo ss -Hltnp 'sport = :4327'",
    )  # fmt: skip
    ward.process(99, "nginx", 77)
    assert ward.one("port") == (
        "failed", "nginx (pid 99) listens on 127.0.0.1:4327", "kill 99",
    )  # fmt: skip
    ward.machine.write("proc/99/cgroup", "0::/system.slice/nginx.service")
    assert ward.one("port")[1:] == (
        "nginx (pid 99, nginx.service) listens on 127.0.0.1:4327",
        "systemctl disable --now nginx.service",
    )
    ward.machine.write("proc/99/cgroup", "0::/system.slice/hearthd.service")
    assert ward.found("port") == []
    ward.machine.write("proc/99/cgroup", "0::/")
    (ward.folder / "state" / "hearthd.json").write_text('{"pid": 99, "listen": "", "socket": ""}')
    assert ward.found("port") == []


@pytest.mark.parametrize(
    ("protocol", "address", "state", "host", "taken"),
    [
        ("tcp", "0100007F:10E7", "0A", "127.0.0.1", True),
        ("tcp", "0100007F:10E7", "01", "127.0.0.1", False),  # a connection
        ("tcp", "0100007F:10E8", "0A", "127.0.0.1", False),
        ("tcp", "0100007F:10E7", "0A", "10.0.0.1", False),
        ("tcp", "0100007F:10E7", "0A", "0.0.0.0", True),
        ("tcp", "00000000:10E7", "0A", "10.0.0.1", True),
        ("tcp", "0100007F:10E7", "0A", "localhost", True),
        ("tcp6", "00000000000000000000000000000000:10E7", "0A", "127.0.0.1", True),
        ("tcp6", "00000000000000000000000001000000:10E7", "0A", "::1", True),
        ("tcp6", "00000000000000000000000001000000:10E7", "0A", "::2", False),
    ],
)
def test_who_is_in_whose_way(
    ward: Ward, protocol: str, address: str, state: str, host: str, taken: bool
) -> None:
    ward.listens(protocol, address, 5, state)
    assert (holder_of(Tree(ward.machine.root), "tcp", 4327, host) is not None) is taken


def test_avahi_that_shares_and_that_does_not(ward: Ward) -> None:
    ward.listens("udp", "00000000:14E9", 8, "07")
    ward.process(55, "avahi-daemon", 8, "0::/system.slice/avahi-daemon.service")
    ward.machine.write("etc/avahi/avahi-daemon.conf", "[server]\n#disallow-other-stacks=yes")
    assert ward.found("port") == []
    ward.machine.write("etc/avahi/avahi-daemon.conf", "[server]\ndisallow-other-stacks=yes")
    outcome, cause, fix = ward.one("port")
    assert outcome == "failed"
    assert cause == (
        "avahi-daemon (pid 55, avahi-daemon.service) keeps UDP port 5353 to itself (disallow-other-stacks=yes)"
    )
    assert fix == (
        r"sed -i 's/^\s*disallow-other-stacks=yes/disallow-other-stacks=no/' /etc/avahi/avahi-daemon.conf"
        " && systemctl restart avahi-daemon"
    )


# --- hardware --------------------------------------------------------------------------------------


def test_device_nodes_that_are_closed(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    for node in ("dev/nvidia0", "dev/nvidiactl", "dev/dri/renderD128", "dev/accel/accel0"):
        ward.machine.write(node, "")
        (ward.machine.root / node).chmod(0o666)
    ward.machine.write("dev/dri/card0", "")
    (ward.machine.root / "dev/nvidia-caps").mkdir()
    assert ward.found("devices") == []
    render = ward.machine.root / "dev/dri/renderD128"
    render.chmod(0o660)
    group = render.stat().st_gid
    ward.machine.write("etc/group", f"render:x:{group}:")
    if group:  # as an ordinary user
        assert ward.one("devices") == (
            "failed", "hearth may not open /dev/dri/renderD128: it is not in the group render",
            "usermod -aG render hearth  # and log in anew",
        )  # fmt: skip
    else:
        assert ward.one("devices")[2] == "chmod a+rw /dev/dri/renderD128"
        os.chown(render, 0, 105)
        ward.machine.write("etc/group", "render:x:105:")
        ward.machine.write("usr/lib/systemd/system/hearthd.service", "")
        assert ward.one("devices") == (
            "failed", "hearth may not open /dev/dri/renderD128: it is not in the group render",
            "usermod -aG render hearth && systemctl restart hearthd",
        )  # fmt: skip
        assert ward.found("devices", account=Account("hearth", 4321, frozenset({105}))) == []


def test_drivers_that_are_not_loaded(ward: Ward) -> None:
    for i, vendor in enumerate(("0x10de", "0x1002")):
        ward.machine.write(f"sys/bus/pci/devices/0000:0{i}:00.0/vendor", vendor)
        ward.machine.write(f"sys/bus/pci/devices/0000:0{i}:00.0/class", "0x030000")
    assert [f.fix for f in ward.found("devices")] == ["modprobe nvidia", "modprobe amdgpu"]
    ward.machine.write("sys/module/nvidia/version", "550")
    ward.machine.write("sys/module/amdgpu/version", "6")
    assert ward.one("devices")[2] == "nvidia-modprobe -u -c=0"


def test_processors_without_avx2(ward: Ward) -> None:
    ward.machine.write("proc/cpuinfo", "flags : fpu sse4_2 hypervisor")
    outcome, cause, fix = ward.one("processor")
    assert outcome == "warning"
    assert "virtual machine hides AVX2" in cause
    assert fix is not None
    assert "host-passthrough" in fix
    ward.machine.write("proc/cpuinfo", "flags : fpu sse4_2")
    assert ward.one("processor")[::2] == ("warning", None)
    ward.machine.write("proc/cpuinfo", "Features : fp asimd")
    assert ward.found("processor") == []


# --- TLS, confinement, backends --------------------------------------------------------------------


def test_certificates_and_clocks(ward: Ward) -> None:
    ward.set(tls=TlsConfig(enabled=True))
    assert ward.found("tls") == []  # made at the first start
    files = own_files(ward.folder / "state")
    files.key.parent.mkdir()
    certificate, key = make(["localhost"], NOW)
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    files.key.chmod(0o644)
    assert ward.found("tls") == []
    ward.now = NOW - timedelta(days=30)
    assert ward.one("tls") == (
        "failed", f"{files.certificate} is valid from 2027-05-30, and the clock shows 2027-05-02",
        "timedatectl set-ntp true",
    )  # fmt: skip
    ward.now = NOW + timedelta(days=3640)
    assert ward.one("tls")[0] == "warning"
    ward.now = NOW + timedelta(days=4000)
    outcome, cause, fix = ward.one("tls")
    assert outcome == "failed"
    assert "has expired on 2037-05-29" in cause
    assert fix == f"rm -f {files.certificate} {files.key} && systemctl restart hearthd"
    ward.now = datetime(1970, 1, 2, tzinfo=UTC)
    assert [f.check for f in ward.found("tls")] == ["clock", "tls"]
    ward.now = NOW
    files.key.chmod(0o600)
    assert ward.one("tls")[1:] == (f"hearth cannot read {files.key}", f"chown hearth {files.key}")
    ward.set(tls=TlsConfig(certificate="/etc/letsencrypt/none.pem"))
    assert ward.one("tls")[0] == "failed"
    bad = ward.file("letsencrypt/bad.pem")
    ward.set(tls=TlsConfig(certificate=str(bad)))
    assert ward.one("tls")[2] == "certbot renew"


def test_a_clock_that_nobody_sets(ward: Ward) -> None:
    (ward.machine.root / "run/systemd/timesync").mkdir(parents=True)
    assert ward.one("tls") == (
        "warning", "the clock is not set by any time server yet", "timedatectl set-ntp true",
    )  # fmt: skip


AVC = (
    'type=AVC msg=audit(1.2:3): avc:  denied  { read } for  pid=7 comm="hearthd" path="/models/m.gguf" '
    'dev="sda1" ino=5 scontext=a tcontext=b tclass=file permissive=0'
)
PROFILE = (
    'kernel: audit: type=1400 apparmor="DENIED" operation="open" profile="/usr/bin/hearthd" '
    'name="/dev/kfd" pid=7 comm="python3"'
)


def test_denials(ward: Ward) -> None:
    ward.machine.write("var/log/audit/audit.log", AVC)
    ward.machine.write("var/log/kern.log", PROFILE.replace("hearthd", "other") + "\n" + PROFILE)
    assert ward.found("confinement") == []  # of long ago: neither is in force
    ward.machine.write("sys/fs/selinux/enforce", "1")
    ward.machine.write("sys/module/apparmor/parameters/enabled", "Y")
    found = ward.found("confinement")
    assert [(f.outcome, f.cause) for f in found] == [
        ("failed", "SELinux denies hearthd to read /models/m.gguf"),
        ("failed", "AppArmor's profile /usr/bin/hearthd denies /dev/kfd"),
    ]
    assert found[0].fix == (
        "ausearch -m avc -c hearthd | audit2allow -M hearthd-local && semodule -i hearthd-local.pp"
    )
    assert found[1].fix == "aa-logprof"


def test_backends_that_are_missing(ward: Ward) -> None:
    absent = {
        "onnx": "backend onnx needs a package that is not here (onnx): pip install 'hearthd[onnx]'"
    }
    ward.view = BackendView(backends=HERE.backends, absent=absent)
    assert ward.found("backends") == []
    stages = (StageConfig(backend="gguf"), StageConfig(backend="onnx"))
    ward.set(models={"m": ModelConfig(stages=stages)})
    assert ward.one("backends") == (
        "failed", f"models.m wants the backend onnx: {absent['onnx']}", "pip install 'hearthd[onnx]'",
    )  # fmt: skip
    ward.view = BackendView(absent=absent)
    outcome, cause, fix = ward.one("backends")
    assert (outcome, fix) == ("failed", "pip install 'hearthd[onnx]'")
    assert cause.startswith("no backend can be used: ")
    ward.view = BackendsSilent("the probe was not done within 120 s")
    assert ward.one("backends")[:2] == ("failed", "the probe was not done within 120 s")


# --- accounts --------------------------------------------------------------------------------------


def test_whom_the_daemon_runs_as(ward: Ward) -> None:
    tree = Tree(ward.machine.root)
    ward.machine.write("etc/group", "video:x:44:ann,hearth\nrender:x:105:hearth\nx:x:7:ann")
    assert account_of(tree, 0, frozenset()) == Account("hearth", 4321, frozenset({4321, 44, 105}))
    assert account_of(tree, 4321, frozenset({1})) == Account("hearth", 4321, frozenset({1}))
    assert account_of(tree, 77, frozenset({2})) == Account("77", 77, frozenset({2}))
    ward.machine.write("etc/passwd", "root:x:0:0:::")
    assert account_of(tree, 0, frozenset({0})).name == "root"


def test_permissions_by_owner_group_and_others(ward: Ward) -> None:
    path = ward.file("f", 0o640)
    found = path.stat()
    owner = Account("o", found.st_uid or 1, frozenset())
    assert Account("root", 0, frozenset()).may(found, "rwx")
    if found.st_uid:
        assert owner.may(found, "rw")
    group = Account("g", 4321, frozenset({found.st_gid}))
    assert group.may(found, "r")
    assert not group.may(found, "w")
    assert not HEARTH.may(found, "r")
    assert barrier(path, group, "r") is None
    blocked = barrier(path, HEARTH, "r")
    assert blocked is not None
    assert (blocked.path, blocked.is_folder) == (path, False)


# --- as users run it -------------------------------------------------------------------------------


def test_a_configuration_that_cannot_be_used_stops_nobody(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text("lisen = 1\n")
    flags = Flags(config=str(file), state=str(tmp_path / "state"))
    patient = examination.admit(flags, {"HOME": "/h"}, 1000, frozenset({1000}))
    assert patient.config_file == file
    assert patient.config.models == {}
    assert (patient.state, patient.account.uid) == (tmp_path / "state", 1000)
    assert patient.config_error is not None
    assert "did you mean 'listen'?" in patient.config_error


@pytest.mark.slow
def test_with_the_daemon_up_and_down(tmp_path: Path) -> None:
    with running(tmp_path, "--set", "hardware.checkup=false") as daemon:
        listen = daemon.address()
        up = hearthd("doctor", "--json", *daemon.flags, "--listen", listen)
        report = json.loads(up.stdout)
        by_check = {f["check"]: f for f in report["findings"]}
        assert (
            by_check["port"]["cause"] == f"hearthd (pid {daemon.process.pid}) listens on {listen}"
        )
        assert report["passed"] is (up.returncode == 0)
    file = tmp_path / "h.toml"
    file.write_text("[models.m]\npath = 'gone.gguf'\n")
    down = hearth("doctor", "--config", str(file), "--state", str(daemon.state))
    assert down.returncode == 1
    lines = down.stdout.decode().splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert f"FAILED   models         models.m: there is no {tmp_path}/gone.gguf" in failed
    file.write_text("lisen = 1\n")
    broken = hearth("doctor", "--config", str(file), "--json")
    assert broken.returncode == 1
    first = json.loads(broken.stdout)["findings"][0]
    assert first["outcome"] == "failed"
    assert "did you mean 'listen'?" in first["cause"]
