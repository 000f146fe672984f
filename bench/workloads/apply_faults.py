"""What fails in the first phase, and what panics: what becomes of the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.workloads.apply_field import is_whole, states
from bench.workloads.place import named, words
from bench.workloads.skills import SKILL, Manifest, Source, fetch

if TYPE_CHECKING:
    from bench.workloads.apply_field import Field
    from bench.workloads.checklist import Checklist

GOOD = 4


class Panic(BaseException):
    """What a panic in an extension written in Rust is in Python: pyo3's PanicException is no Exception."""


def check(promises: Checklist, field: Field) -> None:
    """Failures and panics."""
    _failures(promises, field)
    _panics(promises, field)


def _failures(promises: Checklist, field: Field) -> None:
    """One source is not there, one is another one than was named, one is no archive, one refuses."""
    manifest = field.manifest("failures", GOOD + 4)
    good, bad = manifest.sources[:GOOD], list(manifest.sources[GOOD:])
    bad[0] = replace(bad[0], url=field.server.url("nowhere"))
    bad[1] = replace(bad[1], sha256="0" * 64)
    bad[2] = replace(bad[2], sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    field.server.archives[bad[2].name] = b""
    bad[3] = Source(bad[3].name, "git://127.0.0.1:1/nowhere.git")
    heard: list[str] = []
    program = replace(field.program("cache-failures"), told=lambda outcome: heard.append(outcome.name))
    report = program.apply(Manifest((*bad, *good), manifest.skills))
    found = states(report)
    names = [source.name for source in good]
    left_out = {name: found[f"install {name}"] for name in (source.name for source in bad)}
    promises.check(
        "what failed to sync is not installed; all the rest is",
        set(left_out.values()) == {"skipped"}
        and is_whole(field.tree("failures"), names)
        and all(found[f"install {name}"] == "ok" for name in names),
        f"{words(report.counts)}; {len(os.listdir(field.root / 'failures'))} targets are there",
    )
    reasons = {outcome.name: outcome.reason or "" for outcome in report.outcomes if not outcome.is_good}
    promises.check(
        "each failure is reported with its reason, and each install that was left out with its source",
        all(found[f"sync {source.name}"] == "failed" and reasons[f"sync {source.name}"] for source in bad)
        and all(f"sync {source.name}" in reasons[f"install {source.name}"] for source in bad)
        and sorted(heard) == sorted(found),
        " / ".join(reasons.values()),
    )
    kept = [
        entry for entry in os.listdir(program.cache) if not os.path.exists(f"{program.cache}/{entry}/{SKILL}")
    ]
    promises.check("a sync that failed leaves nothing in the cache", not kept, named(kept) or "nothing")


def _panics(promises: Checklist, field: Field) -> None:
    """In place of some fetches and installs something happens that no program expects."""

    def exception() -> None:
        raise RuntimeError("an exception")

    def base_exception() -> None:
        raise Panic("a panic in an extension")

    def leave() -> None:
        sys.exit("an exit")

    def recurse() -> None:
        recurse()

    def abort() -> None:
        subprocess.run([sys.executable, "-c", "import os; os.abort()"], check=True, stderr=subprocess.DEVNULL)

    panics = [exception, base_exception, leave, recurse, abort]
    manifest = field.manifest("panics", GOOD + len(panics))
    by_name = {source.name: panic for source, panic in zip(manifest.sources, panics, strict=False)}

    def fetch_or_panic(source: Source, path: str) -> None:
        by_name.get(source.name, lambda: None)()
        fetch(source, path)

    program = replace(field.program("cache-panics"), fetch=fetch_or_panic)
    text = f"a panic in one task is that task's failure ({named([panic.__name__ for panic in panics])})"
    try:
        report = program.apply(manifest)
    except BaseException as error:  # noqa: BLE001 - that is what must not be
        promises.check(text, holds=False, measured=f"all of it is lost: {error!r}")
        return
    found = states(report)
    names = [source.name for source in manifest.sources if source.name not in by_name]
    reasons = [outcome.reason or "" for outcome in report.outcomes if outcome.state == "failed"]
    promises.check(
        text,
        all(found[f"sync {name}"] == "failed" for name in by_name)
        and all(found[f"install {name}"] == "ok" for name in names)
        and is_whole(field.tree("panics"), names),
        f"{words(report.counts)}: {' / '.join(reasons)}",
    )
