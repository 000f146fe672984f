"""Many runs at once on one target: each a process of its own, which knows nothing of the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.spans import Span, peak_overlap
from bench.workloads.skill_server import FILES
from bench.workloads.skills import Manifest, Program, Skill, Source, install, is_installed

if TYPE_CHECKING:
    from bench.workloads.apply_field import Field
    from bench.workloads.checklist import Checklist

LIMIT_S = 300.0
OK, BAD, MIXED = "ok", "failed", "mixed"


def check(promises: Checklist, field: Field) -> None:
    """With the key that keeps them apart; and without it, to see that this would be noticed."""
    count = field.sizes.crowd
    target = field.root / "crowded"
    ends, spans, took_s = _crowd(field, "kept-apart", target, count, is_serial=True)
    promises.check(
        f"{count} runs at once on one target, links and copies in turn: each of them succeeds",
        ends == {OK: count},
        f"{ends[OK]} of {count} in {took_s:.1f} s; {ends[BAD]} failed, {ends[MIXED]} found others' files",
    )
    promises.check(
        "one install at a time, of all processes",
        peak_overlap(spans) == 1 and len(spans) == count,
        f"at most {peak_overlap(spans)} of {len(spans)} at once",
    )
    texts = Counter(path.read_text() for path in target.iterdir()) if target.is_dir() else Counter()
    beside = [entry for entry in os.listdir(field.root) if entry.startswith((".crowded", "crowded."))]
    promises.check(
        "at the end one of them is there, whole, and nothing beside it",
        list(texts.values()) == [FILES + 1] and not beside,
        f"{sum(texts.values())} files of {len(texts)} version",
    )
    ends, spans, _ = _crowd(field, "loose", field.root / "loose", count, is_serial=False)
    promises.skip(
        "the same without the key `serial`, for comparison",
        f"{ends[OK]} succeed, {ends[BAD]} fail, {ends[MIXED]} find others' files; "
        f"at most {peak_overlap(spans)} at once",
    )


def _crowd(
    field: Field, name: str, target: Path, count: int, *, is_serial: bool
) -> tuple[Counter[str], list[Span], float]:
    """`count` runs at once on `target`: how they ended, when they installed, and how long all of it took."""
    cache = field.root / f"cache-{name}"
    for number in range(count):
        directory = Path(Source(f"v{number}", "", "f" * 64).path(str(cache)))
        directory.mkdir(parents=True)
        for entry in ("SKILL.md", *(f"part-{part}.md" for part in range(FILES))):
            (directory / entry).write_text(f"version {number}\n")
    command = [sys.executable, "-m", "bench.workloads.apply_races", str(cache), str(target), str(count)]
    began = time.monotonic()
    done = subprocess.run(
        [*command, str(int(is_serial))], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    took_s = time.monotonic() - began
    ends: Counter[str] = Counter()
    spans = []
    for line in done.stdout.splitlines():
        what, *times = line.split()
        if what == "span":
            spans.append(Span(int(times[0]), int(times[1])))
        else:
            ends[what] += 1
    return ends, spans, took_s


def main() -> None:
    """Fork the runs, and let them begin at one time; each prints what it has seen."""
    cache, target, count, is_serial = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
    import buildslots.batch.batch  # noqa: F401, PLC0415 - once, not in each of them

    gate, opener = os.pipe()
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.read(gate, 1)  # until all are there
            try:
                _one(cache, target, number, is_serial=is_serial)
            finally:
                os._exit(0)
        pids.append(pid)
    os.close(gate)
    os.close(opener)
    for pid in pids:
        os.waitpid(pid, 0)


def _one(cache: str, target: str, number: int, *, is_serial: bool) -> None:
    """One run: its own version of the skill, on the target of all."""
    times: list[int] = []
    mixed: list[bool] = []

    def marked_install(skill: Skill, path: str) -> None:
        times.append(time.monotonic_ns())
        install(skill, path)
        if not is_installed(skill, path):
            mixed.append(True)
        times.append(time.monotonic_ns())

    source = Source(f"v{number}", "http://127.0.0.1:1/", "f" * 64)
    skill = Skill("shared", source.name, target, ("symlink", "copy")[number % 2])
    program = Program(cache, install=marked_install, is_serial=is_serial)
    lines = []
    try:
        report = program.apply(Manifest((source,), (skill,)))
        lines.append(MIXED if mixed else OK if report.is_good else BAD)
    except BaseException as error:  # noqa: BLE001 - it is reported
        lines.append(f"{BAD} {error!r}")
    if len(times) == 2:
        lines.append(f"span {times[0]} {times[1]}")
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    main()
