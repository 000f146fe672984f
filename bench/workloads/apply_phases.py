"""How many sources at once, a barrier, and installs that are serialised by their targets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.kit.spans import peak_overlap
from bench.workloads.apply_field import Marks, is_whole, states
from bench.workloads.place import named, words
from bench.workloads.remotes import daemon, make_remote
from bench.workloads.skills import MOST_JOBS, Manifest, Skill, Source, fetch_into, install

if TYPE_CHECKING:
    from bench.workloads.apply_field import Field
    from bench.workloads.checklist import Checklist

HELD_S = 0.3
"""How long the last source is held back, with everything else done."""
PATIENCE_S = 30.0
TARGETS, EACH = 3, 4
FEW = 6


def check(promises: Checklist, field: Field) -> None:
    """The two phases."""
    _at_once(promises, field)
    _bounds(promises, field)
    _barrier(promises, field)
    _by_target(promises, field)
    _one_is_serial(promises, field)
    _from_git(promises, field)


def _at_once(promises: Checklist, field: Field) -> None:
    """The server answers only when as many requests are there as there are jobs."""
    server = field.server
    for jobs in field.sizes.waves:
        count = jobs * (3 if jobs < MOST_JOBS else 1)
        is_default = jobs == field.sizes.waves[0]
        place = f"waves-{jobs}"
        manifest = field.manifest(place, count)
        server.forget()
        server.wave = threading.Barrier(jobs)
        report = field.program(f"cache-{place}", None if is_default else jobs).apply(manifest)
        server.wave = None
        names = [skill.name for skill in manifest.skills]
        text = f"{jobs} source{'' if jobs == 1 else 's'} at once"
        promises.check(
            text + ", if nobody says how many" if is_default else text,
            server.peak == jobs and report.counts == {"ok": 2 * count} and is_whole(field.tree(place), names),
            f"the server saw at most {server.peak} of {count}; {words(report.counts)}",
        )


def _bounds(promises: Checklist, field: Field) -> None:
    manifest = field.save(field.manifest("bounds", 1), "bounds")
    found = []
    for jobs in (0, MOST_JOBS + 1):
        command = [sys.executable, "-m", "bench.workloads.skills", manifest, "--cache", str(field.root / "x")]
        done = subprocess.run([*command, "--jobs", str(jobs)], capture_output=True, check=False)
        found.append(done.returncode)
    promises.check(
        "0 and 101 at once are refused", found == [2, 2], f"exit status {named([*map(str, found)])}"
    )


def _barrier(promises: Checklist, field: Field) -> None:
    """One source is held back until all others are there, and a while longer."""
    marks = Marks()
    manifest = field.manifest("barrier", FEW)
    field.server.held = manifest.sources[-1].name
    field.server.opened.clear()
    others = threading.Event()
    early: list[str] = []

    def open_late() -> None:
        others.wait(PATIENCE_S)
        threading.Event().wait(HELD_S)
        early.extend(span.name for span in list(marks.spans) if span.name.startswith("install"))
        field.server.opened.set()

    opener = threading.Thread(target=open_late)
    opener.start()

    def told(outcome: object) -> None:
        del outcome
        if len(marks.spans) >= FEW - 1:
            others.set()

    program = replace(field.program("cache-barrier", marks=marks), told=told)
    report = program.apply(manifest)
    opener.join()
    field.server.held = ""
    synced = max(span.end for span in marks.spans if span.name.startswith("sync"))
    installed = min(span.start for span in marks.spans if span.name.startswith("install"))
    promises.check(
        "no install begins before every sync has ended",
        installed >= synced and not early and report.counts == {"ok": 2 * FEW},
        f"the first {(installed - synced) / 1e6:.1f} ms after the last, which was held back for {HELD_S} s",
    )


def _by_target(promises: Checklist, field: Field) -> None:
    """Several skills want each target. Those of different targets wait until they are there together."""
    marks = Marks()
    manifest = field.manifest("targets", TARGETS * EACH)
    targets = [skill.target for skill in manifest.skills[:TARGETS]]
    skills = tuple(
        replace(skill, target=targets[number % TARGETS]) for number, skill in enumerate(manifest.skills)
    )
    together = threading.Barrier(TARGETS)

    def marked_install(skill: Skill, path: str) -> None:
        with marks.span(skill.target):
            together.wait(PATIENCE_S)
            install(skill, path)

    # Each is to be there once, whatever is at its target.
    program = replace(field.program("cache-targets"), install=marked_install, is_installed=lambda *_: False)
    report = program.apply(Manifest(manifest.sources, skills))
    peaks = [peak_overlap(span for span in marks.spans if span.name == target) for target in targets]
    promises.check(
        f"{EACH} installs into each of {TARGETS} targets: one at a time, by links and copies in turn",
        peaks == [1] * TARGETS and report.is_good,
        f"at most {named([*map(str, peaks)])} in a target; {words(report.counts)}",
    )
    promises.check(
        "installs into different targets go on at once",
        peak_overlap(marks.spans) == TARGETS,
        f"{peak_overlap(marks.spans)} at once",
    )


def _one_is_serial(promises: Checklist, field: Field) -> None:
    """With one job, with many and in a loop the same comes of it; with one, in the same order too."""
    marks, plain = Marks(), Marks()
    for place, jobs in (("one", 1), ("many", 10)):
        field.program(f"cache-{place}", jobs, marks if jobs == 1 else None).apply(field.manifest(place, FEW))
    manifest = field.manifest("loop", FEW)
    in_a_loop(field, manifest, "cache-loop", plain)
    order = [span.name for span in sorted(marks.spans)]
    same = field.tree("one") == field.tree("loop") == field.tree("many")
    promises.check(
        "1 at once is the same as a loop: one after the other, in its order, with the same result",
        order == [span.name for span in sorted(plain.spans)] and peak_overlap(marks.spans) == 1 and same,
        f"{len(order)} steps from {order[0]} to {order[-1]}, {len(field.tree('one'))} equal files; 10 too",
    )


def in_a_loop(field: Field, manifest: Manifest, cache: str, marks: Marks) -> None:
    """Apply `manifest` without a batch, one after the other: what such programs do at first."""
    paths = {source.name: source.path(str(field.root / cache)) for source in manifest.sources}
    for source in manifest.sources:
        with marks.span(f"sync {source.name}"):
            os.makedirs(paths[source.name])
            fetch_into(source, paths[source.name])
    for skill in manifest.skills:
        with marks.span(f"install {skill.name}"):
            install(skill, paths[skill.source])


def _from_git(promises: Checklist, field: Field) -> None:
    """A skill in a git repository, beside one in an archive."""
    base = field.root / "git"
    base.mkdir()
    make_remote(base / "skill-git.git", skill="from git")
    manifest = field.manifest("from-git", 1)
    skill = Skill("skill-git", "skill-git", str(field.root / "from-git" / "skill-git"))
    with daemon(base) as port:
        sources = (*manifest.sources, Source("skill-git", f"git://127.0.0.1:{port}/skill-git.git"))
        both = Manifest(sources, (*manifest.skills, skill))
        first = field.program("cache-git").apply(both)
    again = field.program("cache-git").apply(both)
    tree = field.tree("from-git")
    promises.check(
        "a git repository and an archive are sources in one manifest; cached, both are unchanged",
        first.counts == {"ok": 4}
        and again.counts == {"unchanged": 4}
        and tree.get("skill-git/SKILL.md") == "from git",
        f"{words(first.counts)}; then, without the daemon, {words(again.counts)}: {named([*states(again)])}",
    )
