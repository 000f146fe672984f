"""A full disk: builds run all the same, at once, with a warning that names the cause, and no others do.

`python -m bench.abuse.full DIRECTORY SEED` forks builds of a pool on a small tmpfs of its own, which it fills
and empties meanwhile; where it may not mount, the builds may not write (RLIMIT_FSIZE) instead. Exit status 1
if one failed, hung, or ran without a slot for no reason.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings

from buildslots import SlotPool, SlotTimeoutError, UnthrottledWarning

BUILDS = 40
PROCESSES = 5
SIZE = 64 * 1024
HUNG_S = 20.0
CAUSES = ("No space left on device", "File too large")


def command(directory: str, seed: int) -> list[str]:
    """The command that does this in `directory`, on a file system of its own if that is possible here."""
    own = [sys.executable, "-m", "bench.abuse.full", directory, str(seed)]
    unshare = ["/usr/bin/unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]
    mount = ["sh", "-c", f'mount -t tmpfs -o size={SIZE} none "$0"', directory]
    try:
        mounts = subprocess.run([*unshare, *mount], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounts = False
    if not mounts:
        return own
    return [
        *unshare,
        "sh",
        "-c",
        f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"',
        directory,
        *own,
        "mounted",
    ]


def build(pool: SlotPool, rng: random.Random, *, mounted: bool) -> int:
    """One build of a forked process; 1 if something was wrong."""
    if not mounted and rng.random() < 0.5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            slot = pool.acquire(weight=rng.choice((1, 1, 2)))
        except SlotTimeoutError:
            return 0
        except Exception as error:  # noqa: BLE001 - none of them may reach a build
            print(f"a full disk has failed a build: {error!r}")
            return 1
    why = [str(warning.message) for warning in caught if warning.category is UnthrottledWarning]
    if (slot.number is None) != (len(why) == 1) or not all(any(c in text for c in CAUSES) for text in why):
        print(f"slot {slot.number}, but: {[str(warning.message) for warning in caught]}")
        return 1
    time.sleep(rng.uniform(0, 0.05))
    slot.release()
    return 0


def main() -> int:
    """Run the builds; the exit status."""
    directory, seed, *mounted = sys.argv[1:]
    rng = random.Random(int(seed))
    pool = SlotPool(dir=os.path.join(directory, "pool"), slots=2, timeout=3, on_timeout="fail")
    ballast = os.path.join(directory, "ballast")
    running: dict[int, float] = {}
    wrong = begun = 0
    while begun < BUILDS or running:
        if mounted and rng.random() < 0.2:
            _fill(ballast, rng.choice((0, SIZE, SIZE)))
        while begun < BUILDS and len(running) < PROCESSES:
            begun += 1
            if (pid := os.fork()) == 0:
                os._exit(_flushed(build(pool, random.Random(f"{seed}:{begun}"), mounted=bool(mounted))))
            running[pid] = time.monotonic()
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            del running[pid]
            wrong += status != 0
        for late in [pid for pid, began in running.items() if time.monotonic() > began + HUNG_S]:
            print(f"hung on a full disk: process {late}")
            os.kill(late, signal.SIGKILL)
            running[late] = float("inf")
        time.sleep(0.005)
    _fill(ballast, 0)
    after = pool.acquire()
    if after.number is None:
        print("still without a slot when there is room again")
        wrong += 1
    return _flushed(min(wrong, 1))


def _fill(path: str, size: int) -> None:
    """Write the file `path` with so many bytes, or as many as there is room for."""
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(bytes(size))
    except OSError:
        pass


def _flushed(status: int) -> int:
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
