"""An engine that the kernel kills for memory is replaced, and the unit goes on: OOMPolicy=continue, control groups v2.

Opt-in (marker `boot`): boots the package under User-Mode Linux.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest
from systemd_box import pristine_root
from uml_system import KERNEL, UmlSystem

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth/boot"
SITE = "usr/lib/hearthd/venv/lib/python3.11/site-packages"
CONFIGURATION = """
[hardware]
checkup = false
[models.canary]
path = "canary"
[models.other]
path = "sim:"
"""
# The engine that finds the file first takes memory until it is ended.
GREEDY = """
import pathlib, sys, threading, time

def take():
    asked = pathlib.Path("/run/hearthd/take")
    while True:
        time.sleep(0.2)
        try:
            asked.unlink()
        except FileNotFoundError:
            continue
        taken = []
        while True:
            taken.append(b"x" * (8 << 20))

if "hearthd.engine" in sys.orig_argv and "--fd" in sys.orig_argv:
    threading.Thread(target=take, daemon=True).start()
"""
SCRIPT = r"""#!/bin/bash
group=/sys/fs/cgroup/system.slice/hearthd.service
changes=/run/systemd/system/hearthd.service.d
show() { systemctl show hearthd -P "$1"; }
limit() {
    mkdir -p $changes
    printf '[Service]\nMemoryMax=500M\n%s\n' "$1" > $changes/limit.conf
    systemctl daemon-reload
}
engines() {
    for pid in $(cat $group/cgroup.procs); do
        tr '\0' ' ' < /proc/$pid/cmdline | grep -q 'hearthd.engine --fd' && echo $pid
    done | paste -sd,
}
ready() { [ "$(show StatusText)" = 'ready: 2 models' ]; }
replaced() { [[ $(engines) = *,* && $(engines) != "$before" ]] && ready; }
restarted() { [ "$(show NRestarts)" = 1 ] && ready; }
until_it_is() {
    for _ in {1..300}; do "$1" && return; sleep 0.2; done
    echo "it never is $1"
    systemctl status hearthd --no-pager -l -n 40
    exit 1
}
ask() {
    curl -s -m 30 -o /dev/null -w '%{http_code}' http://127.0.0.1:4327/v1/completions \
        -d "{\"model\":\"$1\",\"prompt\":\"hello\",\"max_tokens\":4}"
}
tell() {
    echo "{\"at\":\"$1\",\"uptime_seconds\":$(cut -d' ' -f1 /proc/uptime),\"policy\":\"$(show OOMPolicy)\"," \
        "\"main\":$(show MainPID),\"n_restarts\":$(show NRestarts),\"engines\":[$(engines)]," \
        "\"n_killed\":$(awk '$1 == "oom_kill" {print $2}' $group/memory.events)," \
        "\"n_failures\":$(journalctl -u hearthd -o cat | grep -c "Failed with result 'oom-kill'")," \
        "\"active_since\":\"$(show ActiveEnterTimestampMonotonic)\",\"answers\":[$(ask canary),$(ask other)]}"
}
echo "default policy: $(systemctl show -P DefaultOOMPolicy)"
until_it_is ready
limit ''
before=$(engines)
tell before
touch /run/hearthd/take
until_it_is replaced
tell continued
limit OOMPolicy=stop
touch /run/hearthd/take
until_it_is restarted
tell stopped
"""


class Told(msgspec.Struct, frozen=True):
    """What the script tells of the unit at one time; `n_killed` is of the control group, which a restart makes anew."""

    at: str
    uptime_seconds: float
    policy: str
    main: int
    n_restarts: int
    engines: list[int]
    n_killed: int
    n_failures: int
    active_since: str
    answers: list[int]


def test_the_daemon_outlives_an_engine_that_is_killed_for_memory(tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which(KERNEL) is None:
        pytest.skip(f"needs root and {KERNEL} (apt-get install user-mode-linux)")
    packages = sorted((ROOT / "dist").glob("hearthd_*_amd64.deb"), key=lambda p: p.stat().st_mtime)
    if not packages:
        pytest.skip("there is no package: make deb")
    root = pristine_root(CACHE, tmp_path / "root")
    system = UmlSystem(root, tmp_path)
    system.install(packages[-1])
    system.write("etc/hearthd/conf.d/two.toml", CONFIGURATION)
    system.write(f"{SITE}/greedy.py", GREEDY)
    system.write(f"{SITE}/greedy.pth", "import greedy\n")
    try:
        said = system.run(SCRIPT, seconds=400.0)
    finally:
        shutil.rmtree(root)
    lines = [line for line in said.splitlines() if line.startswith('{"at"')]
    print("", *lines, sep="\n  ")
    before, continued, stopped = (msgspec.json.decode(line, type=Told) for line in lines)

    assert before.policy == "continue"  # the unit's own, as it is installed
    assert (before.n_killed, before.n_restarts, len(before.engines)) == (0, 0, 2)

    assert continued.n_killed == 1
    assert (continued.main, continued.active_since) == (before.main, before.active_since)
    assert (continued.n_restarts, continued.n_failures) == (0, 0)
    assert len(set(continued.engines) & set(before.engines)) == 1  # the other one's was left alone
    assert len(continued.engines) == 2
    assert continued.answers == [200, 200]

    # What the default does, so that the above does not hold for another reason.
    assert "default policy: stop" in said
    assert stopped.policy == "stop"
    assert (stopped.n_restarts, stopped.n_failures) == (1, 1)
    assert stopped.main != before.main
    assert not set(stopped.engines) & set(continued.engines)
