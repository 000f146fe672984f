"""Upgrades: what is backed up, what comes back, what the policy refuses."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench.workloads.audit import wheels
from bench.workloads.audit.installed import install
from bench.workloads.audit.upgrader import RefusedError, Upgrader
from bench.workloads.audit.wheels import PACKAGES

if TYPE_CHECKING:
    from bench.workloads.checklist import Checklist
    from buildslots import Report

GOOD, BAD, MAJOR, ASKED, PATCH = "wl-alpha", "wl-beta", "wl-epsilon", "wl-theta", "wl-gamma"
WANTED = {GOOD: "1.1", BAD: "1.1", MAJOR: "2.0", ASKED: "2.0", PATCH: "1.0.1"}
FAILS = 'raise RuntimeError("the new one does not work")'


def check(say: Checklist, scratch: Path, *, short: bool) -> None:
    """Check it; a short run upgrades only what goes well, what fails, and what is refused."""
    wanted = {name: WANTED[name] for name in ((GOOD, BAD, MAJOR) if short else WANTED)}
    root, store, backups = scratch / "upgraded", scratch / "store", scratch / "backups"
    if install(scratch, list(wanted), wheels.build_all(store, list(wanted)), root).status:
        raise SystemExit("the packages to be upgraded were not installed")
    for name, version in wanted.items():
        wheels.build(store, name, version, PACKAGES[name], FAILS if name == BAD else "")
    before = {name: wheels.tree(root / name) for name in wanted}
    report = asyncio.run(Upgrader(root, store, backups, policy="minor").upgrade(wanted))
    after = {name: wheels.installed(root / name)[name] for name in wanted}
    states = _states(report)
    done = [name for name in wanted if name not in {BAD, MAJOR, ASKED}]
    say.check(
        f"of {len(wanted)} upgrades those that work are made, whatever becomes of others",
        all(after[name] == wanted[name] and wheels.works(root / name, name) for name in done),
        ", ".join(f"{name} {after[name]}" for name in done),
    )
    _backups(say, root, backups, [*done, BAD])
    whole = wheels.tree(root / BAD) == before[BAD] and wheels.works(root / BAD, BAD)
    hidden = [path.name for path in root.iterdir() if path.name.startswith(".")]
    text = "one that fails its check is put back whole: each file is what it was, and it works"
    say.check(text, whole and not hidden, f"{BAD} {after[BAD]}, {before[BAD][:12]}")
    failed = states[f"upgrade {BAD}"]
    say.check("  … and reported as failed", failed == "failed", failed)
    refused = [o for o in report.outcomes if isinstance(o.error, RefusedError)]
    same = all(wheels.tree(root / name) == before[name] for name in (MAJOR, ASKED) if name in wanted)
    say.check(
        "a major version is refused by policy, before anything is done",
        len(refused) == len({MAJOR, ASKED} & wanted.keys())
        and same
        and states[f"upgrade {MAJOR}"] == "skipped",
        refused[0].reason if refused else "none",
    )
    if not short:
        _ask(say, root, store, backups)


def _states(report: Report) -> dict[str, str]:
    return {outcome.name: outcome.state for outcome in report.outcomes}


def _backups(say: Checklist, root: Path, backups: Path, names: list[str]) -> None:
    """Backups have their checksums; one that is damaged is not taken for one."""
    right = 0
    for name in names:
        archive = backups / f"{name}.tar"
        said = json.loads((backups / f"{name}.tar.json").read_text())["sha256"]
        right += said == hashlib.sha256(archive.read_bytes()).hexdigest()
    say.check("  … each after a backup with its SHA-256", right == len(names), f"{right} backups")
    upgrader = Upgrader(root, root, backups, policy="minor")
    archive = backups / f"{names[0]}.tar"
    good = archive.read_bytes()
    archive.write_bytes(good[:-1] + b"x")
    before = wheels.tree(root / names[0])
    try:
        upgrader.put_back(names[0])
        told = ""
    except Exception as error:  # noqa: BLE001 - its name is looked at
        told = f"{type(error).__name__}: {Path(str(error)).name}"
    archive.write_bytes(good)
    is_same = wheels.tree(root / names[0]) == before
    say.check("  … a damaged one is seen, and not put back", told.startswith("BackupError") and is_same, told)


def _ask(say: Checklist, root: Path, store: Path, backups: Path) -> None:
    asked: list[tuple[str, str, str]] = []

    def ask(*about: str) -> bool:
        asked.append((about[0], about[1], about[2]))
        return about[0] == MAJOR

    wanted = {name: WANTED[name] for name in (MAJOR, ASKED)}
    upgrader = Upgrader(root, store, backups, policy="ask", ask=ask)
    report = asyncio.run(upgrader.upgrade(wanted))
    after = {name: wheels.installed(root / name)[name] for name in wanted}
    say.check(
        "  … or asked for: made with a yes, and not with a no",
        after == {MAJOR: "2.0", ASKED: "1.0"} and len(asked) == 2 and report.counts.get("ok") == 2,
        ", ".join(f"{name} {version}" for name, version in after.items()),
    )
