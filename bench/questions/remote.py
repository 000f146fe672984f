"""What the recipe for fleets without a server costs: a slot of another host's pool, held through ssh.

`python -m bench.questions.remote [--rounds N] [--clients N]`: an sshd on loopback is the other host. The
figures are those of ssh mostly, so `ssh H true` stands beside them.

- the start: `remote-slot H true` with a free slot, in times of `ssh H true` and of `slot-run true`;
- the hand-over: from the end of a command to the start of the next, three slots, all others in line;
- so many at once: how many plain `ssh` are turned away, and how many remote-slots get no slot in the end;
- a stopped client: how long its slot is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.kit.figures import median, quantile, shown
from bench.kit.installs import this
from bench.kit.recorder import compile_recorder, recorded
from bench.kit.servers import Sshd
from bench.kit.shell import CHECKOUT, forget_settings
from bench.kit.spans import gaps_s, peak_overlap
from buildslots import SlotPool

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS, LEASE_S = 3, 30
RECIPE = re.compile(r"^<!-- recipe ssh -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Bench:
    """A host H, a directory with `remote-slot` and `ssh` on PATH, and H's pool."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        bin_ = Path(this().slot_run).parent
        there = environ(scratch / "there") | {"PATH": f"{bin_}:/usr/bin:/bin"}
        there |= {"HOME": str(scratch)}  # where no file of a shell's slows all down
        wanted = ("HOME", "PATH", "BUILD_SLOTS_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
        settings = {name: there[name] for name in wanted} | {"MAX_CONCURRENT_BUILDS_LICENSE": str(SLOTS)}
        self.sshd = Sshd(scratch / "sshd", settings)
        self.remote_slot = self.sshd.client(scratch / "client").with_name("remote-slot")
        page = CHECKOUT / "buildslots" / "help" / "fleet.md"
        recipe = RECIPE.search(page.read_text())
        if recipe is None:
            raise SystemExit(f"{page} has no recipe ssh")
        self.remote_slot.write_text(recipe[1])
        self.remote_slot.chmod(0o755)
        os.environ["PATH"] = f"{self.remote_slot.parent}:{bin_}:{os.environ['PATH']}"
        os.environ.update(environ(scratch / "here"))
        self.pool = SlotPool(dir=str(scratch / "there" / "pools" / "license"), slots=SLOTS)

    def on_slot(self, *command: str) -> list[str]:
        """`command` below the recipe."""
        return [str(self.remote_slot), self.sshd.HOST, *command]


def ms(command: Sequence[str]) -> float:
    """How long `command` takes."""
    began = time.monotonic()
    subprocess.run(command, check=True)
    return (time.monotonic() - began) * 1e3


def starts(bench: Bench, rounds: int) -> None:
    """Print what a start costs."""
    commands = {
        "ssh H true": ["ssh", bench.sshd.HOST, "true"],
        "remote-slot H true": bench.on_slot("true"),
        "slot-run true": [this().slot_run, "true"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(ms(command))
    for name, found in times.items():
        print(f"{name}: {shown(median(found))} ms, {shown(min(found))} to {shown(max(found))}")


def handovers(bench: Bench, rounds: int) -> None:
    """Print how long a slot lies idle between two."""
    recorder, log = compile_recorder(bench.scratch), bench.scratch / "log"
    builds = []
    for number in range(3 * SLOTS):
        hold_s = 3.0 if number < SLOTS else 0.5
        builds.append(
            subprocess.Popen(bench.on_slot(str(recorder), str(log), str(number), str(hold_s))),
        )
    for build in builds:
        build.wait()
    spans = recorded(log)
    gaps = [gap * 1e3 for gap in gaps_s(spans, SLOTS)]
    print(
        f"hand-over of {len(gaps)}: {shown(median(gaps))} ms, {shown(min(gaps))} to {shown(max(gaps))};"
        f" at most {peak_overlap(spans)} on {SLOTS} slots"
    )
    if rounds > 1:
        log.unlink()
        handovers(bench, rounds - 1)


def crowd(bench: Bench, clients: int) -> None:
    """Print what becomes of many that come at once."""
    plain = [
        subprocess.Popen(["ssh", bench.sshd.HOST, "true"], stderr=subprocess.DEVNULL) for _ in range(clients)
    ]
    refused = sum(each.wait() != 0 for each in plain)
    began = time.monotonic()
    builds = [subprocess.Popen(bench.on_slot("true"), stderr=subprocess.PIPE) for _ in range(clients)]
    without = sum(b"no slot" in build.communicate()[1] for build in builds)
    took_s = time.monotonic() - began
    print(
        f"{clients} at once: {refused} of the plain ssh refused; {without} remote-slots without a slot,"
        f" all of them ended after {shown(took_s)} s"
    )


def stopped(bench: Bench, rounds: int) -> None:
    """Print how long the slot of a stopped client is kept."""
    kept = []
    for _ in range(rounds):
        build = subprocess.Popen(
            bench.on_slot("sh", "-c", "echo; exec sleep 100"), stdout=subprocess.PIPE, start_new_session=True
        )
        assert build.stdout is not None
        build.stdout.read(1)
        time.sleep(LEASE_S / 5)
        os.killpg(build.pid, signal.SIGSTOP)
        began = time.monotonic()
        while bench.pool.status().holders:
            time.sleep(0.05)
        kept.append(time.monotonic() - began)
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
    print(f"a stopped client's slot is kept for {quantile(kept, 0):.1f} to {quantile(kept, 1):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.questions.remote", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=30, help="that come at once (30)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="remote-") as scratch:
        forget_settings(scratch)
        bench = Bench(Path(scratch))
        with bench.sshd:
            starts(bench, options.rounds)
            handovers(bench, max(1, options.rounds // 6))
            crowd(bench, options.clients)
            stopped(bench, max(1, options.rounds // 10))


if __name__ == "__main__":
    main()
