"""The audit: what is found, how much at once, what a bad tool or registry does to others, retries, cache."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psutil

from bench.workloads.audit import snapshot, tools
from bench.workloads.audit.auditor import AT_ONCE, EACH_S, Auditor
from bench.workloads.audit.registries import Registries, path_of
from bench.workloads.loopback import Response
from bench.workloads.running import Running

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.audit.tools import Tool
    from bench.workloads.checklist import Checklist
    from buildslots import Report

LEAST = 50
GRACE_S = 5
"""What a batch gives a command between SIGTERM and SIGKILL."""
REST_S = 4
"""How long all that does not hang may take."""
MARK_S = "61.25"
"""How long the tool that hangs sleeps: what its processes are found by."""
BAD_TOOLS = {
    "hangs": f"sleep {MARK_S} & sleep {MARK_S}",
    "deaf": f"trap '' TERM; sleep {MARK_S} & while :; do sleep 0.2; done",
    "fails": "echo no such thing >&2; exit 3",
    "mute": "exit 0",
    "asks": "read answer; echo 1.2.3",
    "talks": "head -c 3000000 /dev/zero | tr '\\0' x; echo; exit 1",
}
FALLBACK = ("git", "make", "tar", "sed")
"""Tools whose registries answer nothing of use: with a status, never, in half, with something else."""
AFTER_FAILURES = ("grep", "find", "diff", "ls", "cp", "mv", "cat", "head")
"""Tools whose registries answer well at the third time."""


def check(say: Checklist, scratch: Path, *, short: bool) -> None:
    """Check it; a short run asks those that are bad in fewer ways."""
    bad = [name for name in BAD_TOOLS if not (short and name == "deaf")]
    _make(scratch / "bad", bad)
    found = tools.find(LEAST + 10 if short else 200)
    kept = str(scratch / "snapshot.json")
    say.check(f"{LEAST} tools of this machine, or more, are found on PATH", len(found) >= LEAST, len(found))
    _good(say, found, kept)
    _bad(say, scratch, found, kept, bad)
    _offline(say, found, kept)


def _make(directory: Path, names: list[str]) -> None:
    directory.mkdir()
    for name in names:
        script = directory / name
        script.write_text(f"#!/bin/sh\n{BAD_TOOLS[name]}\n")
        script.chmod(0o755)


def _audit(auditor: Auditor) -> tuple[Report, float]:
    began = time.monotonic()
    report = asyncio.run(auditor.audit())
    return report, time.monotonic() - began


def _good(say: Checklist, found: list[Tool], kept: str) -> None:
    """An audit in which everything answers."""
    running = Running()
    with Registries() as server:
        server.together = AT_ONCE
        report, took_s = _audit(Auditor(found, kept, server.url, on_change=running))
        entries = snapshot.read(kept)
        known = [entry for entry in entries.values() if entry["version"]]
        slow = sum(outcome.state == "timed_out" for outcome in report.outcomes)
        say.check(
            "the versions of all of them are asked for, and known",
            len(known) >= LEAST and len(known) + slow + _silent(report, entries) == len(found),
            f"{len(known)} of {len(found)} known, {slow} did not answer in {EACH_S} s",
        )
        latest = {entry["latest"] for entry in entries.values()}
        asked = {tool.registry for tool in found}
        say.check(
            "their latest versions are read from the shapes of five registries",
            latest == {server.version} and len(asked) == 5,
            ", ".join(sorted(asked)),
        )
        peaks = running.peak, server.peak()
        say.check("16 at once, of tools and of requests", peaks == (AT_ONCE, AT_ONCE), peaks)
        say.check("  … over as many connections", server.connections <= AT_ONCE, server.connections)
        say.time("  … which takes seconds", took_s < 20, f"{2 * len(found)} tasks in {took_s:.1f} s")


def _silent(report: Report, entries: dict[str, snapshot.Entry]) -> int:
    """How many tools do not say a version, or fail."""
    ended = {o.name.removeprefix("version ") for o in report.outcomes if o.state in {"ok", "failed"}}
    return sum(not entry["version"] for name, entry in entries.items() if name in ended)


def _bad(say: Checklist, scratch: Path, found: list[Tool], kept: str, bad: list[str]) -> None:
    """An audit in which tools and registries are bad, after the cache has been filled."""
    worse = [tools.Tool(name, str(scratch / "bad" / name), "pypi", name) for name in bad]
    before = snapshot.read(kept)
    with Registries("99.2") as server:
        server.always = dict(
            zip(
                (*FALLBACK, *bad),
                [Response(500), Response(after_s=60), Response(body=b'{"info": '), Response(body=b"[]")]
                + [Response(404)] * len(bad),
                strict=True,
            )
        )
        for name in AFTER_FAILURES:
            server.first[name] = [Response(503), Response(429)]
        auditor = Auditor([*worse, *found], kept, server.url)
        report, took_s = _audit(auditor)
        _others(say, report, before, snapshot.read(kept))
        states = {outcome.name: outcome for outcome in report.outcomes}
        hung = states["version hangs"]
        say.check(f"a tool that hangs is ended after {EACH_S} s", hung.state == "timed_out", hung.reason)
        left = [p.pid for p in psutil.process_iter(["cmdline"]) if MARK_S in (p.info["cmdline"] or ())]
        say.check("  … with all that it has started", not left, f"{len(left)} processes left")
        most_s = EACH_S + GRACE_S + REST_S
        text = f"  … and the audit ends within {most_s} s: one that is deaf to SIGTERM has {GRACE_S} s more"
        say.time(text, took_s < most_s, f"{took_s:.1f} s")
        told = {name: states[f"version {name}"].state for name in bad}
        is_right = told["fails"] == told["talks"] == "failed" and told["mute"] == "ok"
        say.check("one that fails, is mute, or asks a question is that one's trouble", is_right, told)
        paths = [path_of(t.registry, t.package) for t in found if t.name in AFTER_FAILURES]
        _retries(say, server, paths, states["latest git"].attempts)
    entries = snapshot.read(kept)
    cached = {name for name, entry in entries.items() if entry["source"] == "cached"}
    is_old = all(entries[name]["latest"] == before[name]["latest"] == "99.1" for name in cached)
    say.check("the cache is the fallback", cached == set(FALLBACK) and is_old, f"{len(cached)} cached")
    unknown = {name for name, entry in entries.items() if entry["latest"] is None}
    say.check("  … and what that does not know is unknown", unknown == set(bad), f"{len(unknown)} unknown")


def _others(
    say: Checklist, report: Report, before: dict[str, snapshot.Entry], after: dict[str, snapshot.Entry]
) -> None:
    others = before.keys() - set(FALLBACK)
    latest = sum(after[name]["latest"] == "99.2" for name in others)
    same = sum(bool(after[name]["version"]) >= bool(before[name]["version"]) for name in before)
    bad = sum(not outcome.is_good for outcome in report.outcomes)
    say.check(
        "what hangs or fails does not touch the others",
        latest == len(others) and same == len(before),
        f"{bad} tasks have failed, {latest} of {len(others)} others have their latest version",
    )


def _retries(say: Checklist, server: Registries, paths: list[str], tried: int) -> None:
    gaps: list[tuple[float, float]] = []
    for path in paths:
        seen = [one for one in server.seen if one.path == path]
        if len(seen) == 3:
            gaps.append((seen[1].began - seen[0].ended, seen[2].began - seen[1].ended))
    say.check(
        "retries: 2 more requests, and no third",
        len(gaps) == len(AFTER_FAILURES) and tried == 3,
        f"{len(gaps)} of {len(AFTER_FAILURES)} answered well at the third, {tried} tries for a 500",
    )
    if not gaps:
        return
    first, second = zip(*gaps, strict=True)
    say.check(
        "  … never sooner than half of 200 ms, and then half of 400 ms",
        min(first) >= 0.1 and min(second) >= 0.2,
        f"{1000 * min(first):.0f} and {1000 * min(second):.0f} ms",
    )
    say.time(
        "  … never later than 200 and 400 ms and a little",
        max(first) < 0.2 + 0.3 and max(second) < 0.4 + 0.3,
        f"{1000 * max(first):.0f} and {1000 * max(second):.0f} ms",
    )
    spread = 1000 * (max(second) - min(second))
    text = "  … with jitter: what failed at one time does not come back at one time"
    say.time(text, spread > 20, f"{spread:.0f} ms apart")


def _offline(say: Checklist, found: list[Tool], kept: str) -> None:
    before = snapshot.read(kept)
    with Registries("99.3") as server:
        report, _ = _audit(Auditor(found, kept, None))
        after = snapshot.read(kept)
        say.check(
            "offline: nothing is asked for, and the latest versions are the cached ones",
            not server.connections
            and len(report.outcomes) == len(found)
            and all(after[tool.name]["latest"] == before[tool.name]["latest"] for tool in found),
            f"{server.connections} connections",
        )
