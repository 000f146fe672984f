"""Bulk installs: their order, what a failure leaves, what is tried again, what is seen of them."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING

from bench.workloads.audit import bulk, wheels
from bench.workloads.audit.bulk import shared, staged
from bench.workloads.audit.wheels import PACKAGES
from bench.workloads.loopback import Loopback, Response

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.workloads.audit.bulk import Done
    from bench.workloads.checklist import Checklist

SHORT = ("wl-alpha", "wl-gamma")
"""The packages of a short run: one needs the other."""


def check(say: Checklist, scratch: Path, *, short: bool) -> None:
    """Check what is installed, and what is not."""
    names = list(SHORT if short else PACKAGES)
    store = wheels.build_all(scratch / "wheels", names)
    _whole(say, scratch, names, store)
    _broken(say, scratch, names)


def check_failures(say: Checklist, scratch: Path, *, short: bool) -> None:
    """Check what is rolled back, and what is tried again."""
    store = wheels.build_all(scratch / "more-wheels", list(PACKAGES))
    _undone(say, scratch, list(SHORT) if short else list(PACKAGES)[:4], store)
    _retried(say, scratch, store)


def install(scratch: Path, names: list[str], store: Path, root: Path) -> Done:
    """Install them, each into an environment of its own below `root`: all, or none."""
    tasks = [staged(name, PACKAGES[name], str(store), root) for name in names]
    return bulk.run(scratch, tasks, "--all-or-nothing", "--fail=now", "-j4")


def _whole(say: Checklist, scratch: Path, names: list[str], store: Path) -> None:
    root = scratch / "environments"
    done = install(scratch, names, store, root)
    right = [name for name in names if wheels.works(root / name, name)]
    text = f"{len(names)} packages are installed by pip, each into an environment of its own, where it works"
    say.check(text, right == names and done.status == 0, f"{len(right)}, status {done.status}")
    late = [
        f"{name} before {need}"
        for name in names
        for need in PACKAGES[name]
        if not -1 < done.at(f"ok        {need}:") < done.at(f"start     {name}")
    ]
    say.check(
        "  … level by level: none starts before what it needs is installed", not late, f"{len(late)} early"
    )
    dry = bulk.run(
        scratch, [staged(name, PACKAGES[name], str(store), root) for name in names], "--dry-run", "-j4"
    )
    levels = sum(line.startswith("level ") for line in dry.lines)
    deep = max(map(_level, names))
    say.check("  … and --dry-run prints the levels", levels == deep, f"{levels} levels")
    counts = [line.rpartition(" ")[2] for line in done.lines if line.startswith("ok  ")]
    wanted = [f"[{number}/{len(names)}]" for number in range(1, len(names) + 1)]
    say.check("  … progress is told: how many of how many are done", counts == wanted, " ".join(counts))


def _level(name: str) -> int:
    return 1 + max(map(_level, PACKAGES[name]), default=0)


def _broken(say: Checklist, scratch: Path, names: list[str]) -> None:
    """One wheel is broken."""
    store, root = wheels.build_all(scratch / "broken", names), scratch / "none"
    bad = "wl-gamma"
    next(store.glob(f"{wheels.module_of(bad)}-*")).write_bytes(b"PK no wheel")
    done = install(scratch, names, store, root)
    failed, never = done.named("failed"), done.named("skipped")
    late = [line for line in done.lines[done.at("failed") :] if line.startswith("start ")]
    say.check(
        "fail-fast: a broken wheel ends the install, and what has not begun never begins",
        failed == [bad] and _above(bad, names) <= set(never) and not late and done.status == 3,
        f"status {done.status}, {len(never)} skipped",
    )
    left = sorted(path.name for path in root.iterdir())
    say.check("  … atomic: nothing is left of any, not even hidden", not left, f"{len(left)} left")
    text = "\n".join(done.lines)
    told = re.search(r"(?i)    \| (ERROR: .*(?:invalid|zip|wheel).*)", text)
    is_told = told and "    log:   " in text
    text = "  … what pip said about it is shown, and where its log is"
    say.check(text, is_told, told[1].replace(str(scratch), "…") if told else done.lines)


def _above(bad: str, names: list[str]) -> set[str]:
    """What needs it."""
    return {name for name in names if bad in PACKAGES[name]}


def _undone(say: Checklist, scratch: Path, names: list[str], store: Path) -> None:
    """All into one environment; the last does not work."""
    environment = scratch / "one"
    subprocess.run(wheels.make_environment(shlex.quote(str(environment))), shell=True, check=True)
    tasks = [shared(name, PACKAGES[name], str(store), environment, fails=name == names[-1]) for name in names]
    done = bulk.run(scratch, tasks, "--all-or-nothing", "--fail=now", "-j4")
    order, back = done.named("ok  "), done.named("undone")
    say.check(
        "with one environment for all: a failure is rolled back, in reverse order",
        done.status == 3 and back == order[::-1] and len(back) == len(names) - 1,
        f"installed {', '.join(order)}; removed {', '.join(back)}",
    )
    left = wheels.installed(environment)
    say.check("  … and nothing is left of any", not left, f"{len(left)} left")


class Store(Loopback):
    """Wheels behind a page of links, which drops the first connection for one of them."""

    def __init__(self, store: Path, bad: str) -> None:
        super().__init__()
        self._files = {path.name: path.read_bytes() for path in store.iterdir()}
        self._bad = bad
        self._drops = 1

    def answer(self, path: str, _headers: Mapping[str, str]) -> Response:
        """See `Loopback`."""
        name = path.removeprefix("/")
        if not name:
            links = "".join(f'<a href="{name}">{name}</a>\n' for name in self._files)
            page = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
            return Response(body=page, headers={"Content-Type": "text/html"})
        if name.startswith(self._bad) and self._drops:
            self._drops -= 1
            return Response(drops=True)
        return Response(body=self._files[name]) if name in self._files else Response(404)


def _retried(say: Checklist, scratch: Path, store: Path) -> None:
    root, mark = scratch / "retried", shlex.quote(str(scratch / "was-locked"))
    with Store(store, "wl_alpha") as server:
        links = f"{server.url}/"
        tasks = [staged(name, (), links, root) for name in ("wl-alpha", "wl-beta", "wl-missing")]
        tasks[1]["run"] = f"[ -e {mark} ] || {{ touch {mark}; exit 75; }}; {tasks[1]['run']}"
        done = bulk.run(scratch, tasks, "--fail=never", "-j3")
    again = set(done.named("retry"))
    text = "a connection that is lost is tried again, by what pip writes to stderr"
    say.check(
        text,
        "wl-alpha" in again and wheels.works(root / "wl-alpha", "wl-alpha"),
        _first(done, "retry     wl-alpha"),
    )
    text = "  … a lock that is taken, by the exit status of 75"
    say.check(
        text,
        "wl-beta" in again and wheels.works(root / "wl-beta", "wl-beta"),
        _first(done, "retry     wl-beta"),
    )
    text = "  … and a package that does not exist is not"
    say.check(text, "wl-missing" not in again and done.status == 1, _first(done, "failed    wl-missing"))


def _first(done: Done, beginning: str) -> str:
    at = done.at(beginning)
    return done.lines[at].strip() if at >= 0 else f"no line {beginning!r}: {done.lines} {done.errors}"
