"""Bounds: how many downloads run at once, over how many connections, and in which order."""

from __future__ import annotations

import subprocess
from subprocess import DEVNULL
from typing import TYPE_CHECKING

from bench.kit.shell import CHECKOUT
from bench.workloads.install.manager import at_once
from bench.workloads.install.server import FILES, Files, components
from bench.workloads.install.watched import Watched, command

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.checklist import Checklist


def check(say: Checklist, scratch: Path, count: int) -> None:
    """Check it, with `count` components."""
    config = scratch / "manager.toml"
    config.write_text("[downloads]\nmax_concurrent = 3\n")
    ways = (
        ("never more than 4 at once by default", at_once(None, None), 4),
        ("-j 2: never more than 2", at_once(2, None), 2),
        ("[downloads] max_concurrent = 3: never more than 3", at_once(None, str(config)), 3),
        ("-j 2 and max_concurrent = 3: never more than 2", at_once(2, str(config)), 2),
    )
    for number, (text, jobs, most) in enumerate(ways):
        with Files(components(count)) as server:
            server.together = most
            manager = Watched(server.url, scratch / f"bounded-{number}", at_once=jobs)
            report = manager.run()
            peaks = manager.peak(), server.peak(FILES)
            is_right = peaks == (most, most) and report.is_good
            say.check(f"{text}, by the client and by the server", is_right, peaks)
            if most == 4:
                _by_default(say, manager, server)
    _serial(say, scratch, min(count, 12))
    _two(say, scratch, count)


def _by_default(say: Checklist, manager: Watched, server: Files) -> None:
    """What else is seen of the first install."""
    count = len(manager.wanted)
    text = f"one pooled client: never more than 4 connections for {count} downloads"
    say.check(text, server.connections <= 4, server.connections)
    verified = [step for step in manager.steps if step.what == "verified"]
    say.check(
        "each is verified while its slot is held, as the machine's list shows",
        len(verified) == count and not manager.without_slot,
        f"{count - len(manager.without_slot)} of {count}",
    )
    say.check(
        "staged first: nothing is at its destination while anything is still verified",
        not manager.seen_early,
        f"{len(manager.seen_early)} seen",
    )


def _serial(say: Checklist, scratch: Path, count: int) -> None:
    with Files(components(count)) as server:
        manager = Watched(server.url, scratch / "serial", at_once=1)
        manager.run()
        done = [(step.what, step.name) for step in manager.steps if step.what in {"fetch", "verified"}]
        wanted = [(what, name) for name in manager.wanted for what in ("fetch", "verified")]
        say.check(
            "-j 1 is strictly serial, in the manifest's order: each is verified before the next is asked for",
            done == wanted and server.peak() == 1,
            f"peak {server.peak()}, {len(done)} steps in order",
        )


def _two(say: Checklist, scratch: Path, count: int) -> None:
    """Two installs of two processes."""
    with Files(components(count)) as server:
        server.together = 4
        processes = [
            subprocess.Popen(
                command(server.url, scratch / f"two-{number}"), cwd=CHECKOUT, stdout=DEVNULL, stderr=DEVNULL
            )
            for number in range(2)
        ]
        statuses = [process.wait() for process in processes]
        say.check(
            "two installs at once: never more than 4 together, for the slots are the machine's",
            server.peak(FILES) == 4 and statuses == [0, 0] and len(server.requests(FILES)) == 2 * count,
            server.peak(FILES),
        )
