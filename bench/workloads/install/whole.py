"""All or nothing: what a failure leaves, what is tried again, and when links are made."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bench.kit.shell import CHECKOUT
from bench.workloads.install.server import FILES, Files, components
from bench.workloads.install.watched import Watched, command, links, tree
from bench.workloads.loopback import Response

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.checklist import Checklist

SLOW_CHUNK_S = 1.0
"""What passes after each 16th of a slow file, which so takes 16 s."""
CHUNK_S = 0.02
SOON_S = 5.0
SEE_S = 10.0
"""How long the server may take to see that a client has gone."""


def check(say: Checklist, scratch: Path, count: int) -> None:
    """Check it, with `count` components."""
    dest = scratch / "whole"
    with Files(components(count, "1.0")) as server:
        Watched(server.url, dest).run()
    for fault in FAULTS:
        _failure(say, dest, count, fault)
    _interrupted(say, dest, count)
    _retries(say, dest, count)
    _again(say, dest, count)
    _killed(say, dest, count)


def _corrupt(server: Files, name: str) -> Response:
    return server.corrupted(name)


def _absent(_server: Files, _name: str) -> Response:
    return Response(404)


def _broken(_server: Files, _name: str) -> Response:
    return Response(503)


def _cut(_server: Files, _name: str) -> Response:
    return Response(body=b"x" * 20_000, drops=True)


class Fault(NamedTuple):
    """What is wrong with a component: in words, as an answer, and how often it is asked for then."""

    text: str
    answer: Callable[[Files, str], Response]
    tries: int


FAULTS = (
    Fault("a wrong checksum", _corrupt, 2),
    Fault("a status of 404, which no retry helps,", _absent, 1),
    Fault("a status of 503", _broken, 2),
    Fault("a connection that is cut", _cut, 2),
)


def _failure(say: Checklist, dest: Path, count: int, fault: Fault) -> None:
    """An update in which one component fails, while three are slow, some are done, and most are to come."""
    before = tree(dest)
    with Files(components(count, "2.0")) as server:
        server.chunk_s = CHUNK_S
        server.slow = dict.fromkeys(("tool-00", "tool-01", "tool-03"), SLOW_CHUNK_S)
        server.always["tool-02"] = fault.answer(server, "tool-02")
        began = time.monotonic()
        manager = Watched(server.url, dest)
        report = manager.run()
        took_s = time.monotonic() - began
        asked = {seen.path for seen in server.requests(FILES)}
        of_it = len(server.requests(f"{FILES}tool-02"))
        times = "again once" if fault.tries == 2 else "no second time"
        states = {outcome.name: outcome.state for outcome in report.outcomes}
        say.check(
            f"{fault.text} is tried {times}, and then cancels the rest",
            of_it == fault.tries
            and states.pop("tool-02") == "failed"
            and set(states.values()) <= {"cancelled", "skipped", "undone"}
            and report.counts["cancelled"] == 3
            and report.counts["skipped"] == count - len(asked) > 0,
            f"{of_it} tries, {report.counts}, {len(asked)} of {count} asked for",
        )
        say.time(
            f"  … at once: within {SOON_S:g} s, where the others would take 16 s",
            took_s < SOON_S,
            f"{took_s:.1f} s",
        )
        is_same = tree(dest) == before
        say.check("  … and leaves nothing: all is as it was, to the byte", is_same, f"{len(before)} paths")
        say.check("  … and no link was touched", manager.before_links is None, f"{len(links(dest))} links")
        if fault.answer is _corrupt:
            lost = _lost(server)
            say.check(
                "  … and downloads that ran are broken off, as the server sees", lost == 3, f"{lost} of 3"
            )


def _lost(server: Files) -> int:
    """How many answers the server could not send to their end."""
    until = time.monotonic() + SEE_S
    while time.monotonic() < until:
        lost = sum(seen.lost for seen in list(server.seen))
        if lost == 3:
            break
        time.sleep(0.05)
    return lost


def _interrupted(say: Checklist, dest: Path, count: int) -> None:
    before = tree(dest)
    with Files(components(count, "2.0")) as server:
        status, _ = _stopped(server, dest, signal.SIGINT)
        is_same = tree(dest) == before and status == 130
        say.check("Ctrl-C in the middle leaves nothing, either", is_same, f"status {status}")


def _killed(say: Checklist, dest: Path, count: int) -> None:
    """After kill -9 comes the next install."""
    before = tree(dest)
    with Files(components(count, "3.0")) as server:
        status, left = _stopped(server, dest, signal.SIGKILL)
        visible = {path for path in tree(dest) if ".stage-" not in path}
        say.check(
            "kill -9 in the middle: everything installed is as it was",
            visible == set(before) and status == -signal.SIGKILL,
            f"{left} stages left",
        )
        server.chunk_s = 0.0
        done = subprocess.run(
            command(server.url, dest), cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        stages = [path for path in tree(dest) if ".stage-" in path]
        say.check(
            "  … and the next install removes what was left, names it, and succeeds",
            done.returncode == 0 and not stages and left == done.stderr.count("was killed"),
            f"{len(stages)} stages, {done.stderr.count('was killed')} named",
        )


def _stopped(server: Files, dest: Path, signum: int) -> tuple[int, int]:
    """An install that gets a signal when 4 downloads run: its status, and how many stages there are then."""
    server.chunk_s = SLOW_CHUNK_S
    process = subprocess.Popen(
        command(server.url, dest),
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + SEE_S
    while len(server.requests(FILES)) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signum)
    status = process.wait()
    return status, sum(name[0] == "." for name in os.listdir(dest / "components"))


def _retries(say: Checklist, dest: Path, count: int) -> None:
    """An update in which three first downloads fail; then everything that follows from its success."""
    with Files(components(count, "2.0")) as server:
        server.first = {
            "tool-01": [Response(503)],
            "tool-03": [server.corrupted("tool-03")],
            "tool-05": [Response(body=b"x" * 20_000, drops=True)],
        }
        manager = Watched(server.url, dest)
        report = manager.run()
        tries = {outcome.name: outcome.attempts for outcome in report.outcomes}
        twice = sorted(name for name, tried in tries.items() if tried == 2)
        say.check(
            "one retry: 503, a wrong checksum and a cut connection are made good by it",
            report.is_good and twice == ["tool-01", "tool-03", "tool-05"] and max(tries.values()) == 2,
            f"{len(server.requests(FILES))} requests for {count}",
        )
        assert manager.before_links is not None
        there, led = manager.before_links
        new = sum(name.startswith("components/") and name.endswith("-2.0") for name in there)
        old = sum(target.endswith("-1.0") for target in led.values())
        say.check(
            "links are made only after all have been moved to their places",
            new == count and old == count,
            f"{new} of {count} in place, {old} old links",
        )
        tool = subprocess.run([dest / "bin" / "tool-03"], capture_output=True, text=True, check=False)
        led = links(dest)
        say.check(
            "  … then each leads to the new version, which runs",
            all(target == f"{name}-2.0" for name, target in led.items()) and tool.stdout == "tool-03 2.0\n",
            tool.stdout.strip(),
        )
        rest = [path for path in tree(dest) if ".stage-" in path or ".archive" in path]
        say.check("no stage and no archive is left", not rest, f"{len(rest)} left")


def _again(say: Checklist, dest: Path, count: int) -> None:
    with Files(components(count, "2.0")) as server:
        report = Watched(server.url, dest).run()
        asked = len(server.requests(FILES))
        unchanged = report.counts == {"unchanged": count}
        say.check("what is installed is not downloaded again", unchanged and not asked, f"{asked} requests")
