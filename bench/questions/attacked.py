"""How long a build takes, and how soon it hears a signal, while somebody does his worst to its pool.

`python -m bench.questions.attacked [--names N] [--slots N]`: for each attack `slot-run -t 1 true` from its
start to its end, which is to be 3 s at most, and the time from a SIGTERM to the end of a `slot-run -t none
sleep` that has begun a second before, 0.2 s at most. The attacks are those of the manual's page on security
that take time.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.kit.installs import this

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_S, HEARD_S = 3.0, 0.2
SHOWN_AFTER_S = 1.0
"""How long the build that is to hear a signal runs before."""
HELD = ("flock", "{pool}/slot-0", "sleep", "1000")
EXCHANGES = """
import ctypes, fcntl, os, sys, time
paths = [f"{sys.argv[1]}/{name}".encode() for name in ("mutex", ".other")]
kept = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in paths]
for fd in kept:
    fcntl.flock(fd, fcntl.LOCK_EX)
print("ready", flush=True)
while True:
    time.sleep(0.7)
    ctypes.CDLL(None).renameat2(-100, paths[0], -100, paths[1], 2)
"""
TAKES = """
import fcntl, os, sys
kept = []
print("ready", flush=True)
while True:
    fd = os.open(f"{sys.argv[1]}/mutex", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
    else:
        kept.append(fd)
"""
TOUCHES = """
import os, sys, time
print("ready", flush=True)
while True:
    os.utime(f"{sys.argv[1]}/holders/slot-0")
    time.sleep(0.4)
"""


def tickets(pool: Path, count: int) -> list[Path]:
    """The paths of so many tickets, all before any other."""
    return [pool / "queue" / f"{number:020d}-1" for number in range(1, count + 1)]


def nothing(pool: Path) -> None:
    """For comparison."""
    del pool


def dead_tickets(pool: Path) -> None:
    """Empty files in the line."""
    for path in tickets(pool, ARGS.names):
        os.close(os.open(path, os.O_CREAT, 0o600))


def directories(pool: Path) -> None:
    """Directories with tickets' names."""
    for path in tickets(pool, ARGS.names // 10):
        path.mkdir()


def links(pool: Path) -> None:
    """Symbolic links with tickets' names."""
    for path in tickets(pool, ARGS.names // 10):
        path.symlink_to("/dev/zero")


def one_lock(pool: Path) -> None:
    """One locked file with the names of 200 tickets."""
    first, *others = tickets(pool, 200)
    first.touch()
    for path in others:
        path.hardlink_to(first)
    KEPT.append(os.open(first, os.O_RDONLY))
    fcntl.flock(KEPT[-1], fcntl.LOCK_EX)


def shared_slots(pool: Path) -> None:
    """One file, looked at, with the names of masses of slots."""
    (pool / "slot-0").touch()
    for number in range(1, ARGS.slots):
        (pool / f"slot-{number}").hardlink_to(pool / "slot-0")
    KEPT.append(os.open(pool / "slot-0", os.O_RDONLY))
    fcntl.flock(KEPT[-1], fcntl.LOCK_SH)


ATTACKS: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "nothing": (nothing, "", ()),
    "nothing, the slot held": (nothing, "", HELD),
    "two mutexes exchanged every 0.7 s": (nothing, EXCHANGES, ()),
    "the same, the slot held": (nothing, EXCHANGES, HELD),
    "each new mutex taken": (nothing, TAKES, ()),
    "records touched, paced": (nothing, TOUCHES, HELD),
    "one lock as 200 tickets, paced": (one_lock, "", HELD),
    "dead tickets": (dead_tickets, "", ()),
    "dead tickets, paced, the slot held": (dead_tickets, "", HELD),
    "directories as tickets": (directories, "", ()),
    "links as tickets": (links, "", ()),
    "slots under one shared lock": (shared_slots, "", ()),
}
"""What is done to the pool before; a program that goes on doing something; what holds the one slot."""
KEPT: list[int] = []
ARGS = argparse.Namespace()


@contextmanager
def attack(name: str, scratch: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The slot-run, with its options, and its environment, in a pool under attack."""
    prepare, program, held = ATTACKS[name]
    pool = scratch / "pool"
    env = environ(pool)
    command = [this().slot_run, "-q", "-n1", *(["--on-timeout=paced"] if "paced" in name else [])]
    subprocess.run([*command, "true"], env=env, check=True)
    prepare(pool)
    helpers = []
    try:
        if program:
            helpers.append(
                subprocess.Popen([sys.executable, "-c", program, str(pool)], stdout=subprocess.PIPE)
            )
            assert helpers[0].stdout is not None
            helpers[0].stdout.readline()
        if held:
            helpers.append(subprocess.Popen([word.format(pool=pool) for word in held]))
            while subprocess.run(["flock", "-n", str(pool / "slot-0"), "true"], check=False).returncode == 0:
                time.sleep(0.01)
        yield command, env
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
        while KEPT:
            os.close(KEPT.pop())


def main() -> int:
    """Print a row for each attack; 1 if one took longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--names", type=int, default=240_000, help="dead tickets; a tenth of that of others")
    parser.add_argument("--slots", type=int, default=60_000, help="names of slots")
    parser.parse_args(namespace=ARGS)
    failed = False
    print(f"{'attack':40}{'-t 1, s':>10}{'TERM, s':>10}")
    for name in ATTACKS:
        with tempfile.TemporaryDirectory() as scratch, attack(name, Path(scratch)) as (command, env):
            waiting = subprocess.Popen([*command, "-t", "none", "sleep", "1000"], env=env)
            time.sleep(SHOWN_AFTER_S)
            began = time.monotonic()
            waiting.send_signal(signal.SIGTERM)
            waiting.wait()
            heard_s = time.monotonic() - began
            began = time.monotonic()
            subprocess.run([*command, "-t", "1", "true"], env=env, check=True)
            ran_s = time.monotonic() - began
        print(f"{name:40}{ran_s:10.2f}{heard_s:10.3f}", flush=True)
        failed |= ran_s > MOST_S or heard_s > HEARD_S
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
