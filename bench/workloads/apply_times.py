"""How long it takes: a remote that is slow, and a cache that has everything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench.workloads.apply_field import Marks, is_whole
from bench.workloads.apply_phases import in_a_loop
from bench.workloads.place import words

if TYPE_CHECKING:
    from bench.workloads.apply_field import Field
    from bench.workloads.checklist import Checklist

AT_LEAST_TIMES = 5.0
CACHED_S = 2.0


def check(promises: Checklist, field: Field) -> None:
    """Slow remotes, and a cache."""
    _slow_remote(promises, field)
    _cached(promises, field)


def _slow_remote(promises: Checklist, field: Field) -> None:
    count, answers_s = field.sizes.sources, field.sizes.answers_s
    field.server.answers_s = answers_s
    began = time.monotonic()
    in_a_loop(field, field.manifest("slow-loop", count), "cache-slow-loop", Marks())
    serial_s = time.monotonic() - began
    manifest = field.manifest("slow", count)
    report = field.program("cache-slow").apply(manifest)
    field.server.answers_s = 0.0
    names = [skill.name for skill in manifest.skills]
    promises.check(
        f"{count} from a remote that takes {answers_s} s to answer are applied",
        is_whole(field.tree("slow"), names) and report.counts == {"ok": 2 * count},
        words(report.counts),
    )
    promises.time(
        "in at most a fifth of the time of a loop",
        report.ran_s <= serial_s / AT_LEAST_TIMES,
        f"{report.ran_s:.1f} s against {serial_s:.1f} s, {serial_s / report.ran_s:.1f} times as fast",
    )


def _cached(promises: Checklist, field: Field) -> None:
    """The whole program, from its start to its end: once with installs to be made, once without."""
    count = field.sizes.cached
    manifest = field.manifest("cached", count)
    path = field.save(manifest, "cached")
    field.program("cache-cached").apply(manifest)
    field.server.forget()
    names = [skill.name for skill in manifest.skills]
    for skill in manifest.skills:
        if os.path.islink(skill.target):
            os.unlink(skill.target)
    said, took_s = [], []
    for _ in range(2):
        began = time.monotonic()
        command = [sys.executable, "-m", "bench.workloads.skills", path]
        command += ["--cache", str(field.root / "cache-cached")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took_s.append(time.monotonic() - began)
        said.append(done.stdout.strip() or done.stderr)
    links = (count + 1) // 2
    promises.check(
        f"{count} that are in the cache: nobody asks the server, what is missing is installed",
        said == [f"{2 * count - links} unchanged, {links} ok", f"{2 * count} unchanged"]
        and field.server.served == 0
        and is_whole(field.tree("cached"), names),
        f"{'; then '.join(said)}; {field.server.served} requests",
    )
    promises.time(
        f"in less than {CACHED_S:g} s, with the start of the program",
        max(took_s) < CACHED_S,
        " and ".join(f"{one:.2f} s" for one in took_s),
    )
