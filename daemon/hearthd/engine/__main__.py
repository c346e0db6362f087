"""`python -m hearthd.engine --fd N | --stage N | --probe [MODEL ...] | --selftest … | --calibrate … | --quantize …`: the engine's argv."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1
PROBE_NICENESS = 10
"""Models that load at the same time come first."""


def main() -> int:
    """Parse argv and serve; hearthd's signals are for hearthd, which stops engines by a frame."""
    parser = argparse.ArgumentParser(prog="hearthd.engine")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--fd", type=int, help="the inherited socket to hearthd")
    action.add_argument("--stage", type=int, help="the inherited socket to an engine")
    action.add_argument("--probe", nargs="*", metavar="MODEL", help="print what backends know")
    for word, does in (("selftest", "does rightly"), ("calibrate", "does, and how fast")):
        action.add_argument(
            f"--{word}", nargs=2, metavar=("BACKEND", "DEVICE"), help=f"print what it {does}"
        )
    action.add_argument("--quantize", metavar="JSON", help="what hearthd.quantization orders")
    parser.add_argument("--threads", type=int, default=1, help="of a test")
    parser.add_argument("--folder", help="whose disk is measured")
    parser.add_argument("--log-level", default="INFO")
    arguments = parser.parse_args()
    if arguments.probe is not None:
        from hearthd.engine.probe import probe

        os.nice(PROBE_NICENESS)
        sys.stdout.buffer.write(probe(arguments.probe) + b"\n")
        return 0
    if arguments.selftest is not None or arguments.calibrate is not None:
        return _check_up(arguments)
    if arguments.quantize is not None:
        _log_to_stderr("WARNING")
        _die_with_parent(signal.SIGTERM)  # which is a while to clean up
        from hearthd.engine.quantizing.job import run

        return run(arguments.quantize)
    _log_to_stderr(arguments.log_level)
    _die_with_parent()
    if arguments.stage is not None:
        from hearthd.engine.stages.child import serve_stage

        return serve_stage(socket.socket(fileno=arguments.stage))
    from hearthd.engine.worker import serve

    return serve(socket.socket(fileno=arguments.fd))


def _check_up(arguments: argparse.Namespace) -> int:
    """Test or measure one device with one backend."""
    _die_with_parent()
    from hearthd.engine.checkup import report

    word, pair = "selftest", arguments.selftest
    if pair is None:
        word, pair = "calibrate", arguments.calibrate
    found = report.report(word, *pair, threads=arguments.threads, folder=arguments.folder)
    sys.stdout.buffer.write(found + b"\n")
    return 0


def _log_to_stderr(level: str) -> None:
    """One line for each record, as hearthd reads it from the pipe: level, logger, message."""
    import logging

    logging.basicConfig(level=level, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)


def _die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """End with hearthd, however it ends; leave Ctrl-C and `systemctl stop` to it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
