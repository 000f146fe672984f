"""Syncs that do not go well, and what people see of them: rows, failures, Ctrl-C, passwords."""

from __future__ import annotations

import re
import signal
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bench.workloads.place import BATCH, batch, named, words
from bench.workloads.remotes import asking, make_remote, slow
from bench.workloads.sync_field import default_jobs
from bench.workloads.terminal import CTRL_C, Terminal

if TYPE_CHECKING:
    from bench.workloads.checklist import Checklist
    from bench.workloads.sync_field import Field

HANG_S = 60.0
"""A batch on a terminal that takes so long hangs: it waits for an answer that nobody gives."""
BIG = "repo-900"
COLUMNS = 100


def check(promises: Checklist, field: Field) -> None:
    """Rows on a terminal, a failure, Ctrl-C, and remotes that ask for a password."""
    _rows(promises, field)
    _fail_soon(promises, field)
    _ctrl_c(promises, field)
    _password(promises, field)


def _rows(promises: Checklist, field: Field) -> None:
    make_remote(field.remote(BIG), files=20, size=field.sizes.big_kib * 1024 // 20)
    field.names.append(BIG)
    with slow(field.port, bytes_per_s=field.sizes.kib_per_s * 512) as port:
        plan = field.plan("rows", {BIG: field.url(BIG, port), field.names[0]: field.url(field.names[0])})
        terminal = Terminal([*BATCH, plan], cwd=field.root, columns=COLUMNS)
        ended = terminal.run(HANG_S)
    # A row: "  repo-900      2 s  Receiving objects:  40% (8/20), 1.20 MiB | 500.00 KiB/s".
    row = rf"^ +{BIG} +\d\S* \S+ +Receiving objects: +(\d+)%"
    percent = [int(found[1]) for line in terminal.lines if (found := re.match(row, line))]
    seen = sorted(set(percent))
    promises.check(
        "a terminal has a row for each that runs, with the last progress that git has printed",
        ended and len(seen) >= 2 and all(one <= other for one, other in pairwise(percent)),
        f"{BIG} received {', '.join(f'{one} %' for one in seen[:3])} … {max(seen, default=0)} %",
    )
    counted = sorted(set(re.findall(r"\[\d/\d\]", terminal.text)))
    summary = [line for line in terminal.lines if line.startswith("2 tasks: 2 ok in ")]
    promises.check(
        "rows count what has ended, and what has ended stands above them with its summary",
        counted[-2:] == ["[1/2]", "[2/2]"] and len(summary) == 1 and terminal.status == 0,
        f"{named(counted)}, {named(summary)}",
    )
    field.names.remove(BIG)


def _fail_soon(promises: Checklist, field: Field) -> None:
    """The last of those that run at once has no remote, and fails while the others wait for theirs."""
    jobs = default_jobs()
    broken = field.names[jobs - 1]
    opened = threading.Event()

    def look(event: dict[str, Any]) -> None:
        if event.get("task") == broken:
            opened.set()

    with slow(field.port, opened=opened) as port:
        urls = {name: field.url(name, port) for name in field.names}
        urls[broken] = f"file://{field.root}/nowhere.git"
        ran = batch("--fail", "soon", field.plan("soon", urls), cwd=field.root, look=look)
    running, rest = field.names[: jobs - 1], field.names[jobs:]
    finished = [name for name in field.names if ran.states[name] == "ok"]
    skipped = [name for name in field.names if ran.states[name] == "skipped"]
    promises.check(
        "--fail soon: what runs comes to its end",
        finished == running and field.whole("soon", running) == running,
        f"{named(finished)} ok and whole, after {broken} had failed",
    )
    reasons = {event["reason"] for event in ran.tasks if event["state"] == "skipped"}
    promises.check(
        "--fail soon: the queue is skipped, with the reason",
        skipped == rest and all(broken in reason for reason in reasons),
        f"{len(skipped)} skipped: {' / '.join(reasons)}",
    )
    promises.check("--fail soon: the exit status is not 0", ran.status == 1, ran)
    field.remove("soon")


def _ctrl_c(promises: Checklist, field: Field) -> None:
    jobs = default_jobs()
    pressed, opened = threading.Event(), threading.Event()

    def look(terminal: Terminal) -> None:
        if not pressed.is_set() and f"{jobs} running" in terminal.text:
            pressed.set()
            terminal.press(CTRL_C)
        if "Ctrl-C: nothing new starts" in terminal.text:
            opened.set()

    with slow(field.port, opened=opened) as port:
        plan = field.plan("broken-off", {name: field.url(name, port) for name in field.names})
        terminal = Terminal([*BATCH, plan], cwd=field.root, columns=COLUMNS)
        terminal.run(HANG_S, look)
    begun, rest = field.names[:jobs], field.names[jobs:]
    whole = field.whole("broken-off", field.names)
    promises.check(
        "Ctrl-C: what runs comes to its end, nothing new starts",
        opened.is_set() and whole == begun and not field.left_over("broken-off"),
        f"{len(whole)} whole, which were the {jobs} that ran; nothing half, {len(rest)} not there",
    )
    summary = [line for line in terminal.lines if re.match(r"\d+ tasks: ", line)]
    expected = words({"ok": len(begun), "cancelled": len(rest)})
    promises.check(
        "Ctrl-C: a summary of what was done is printed",
        len(summary) == 1 and expected in summary[0] and "interrupted" in summary[0],
        named(summary),
    )
    died = terminal.status == -signal.SIGINT
    promises.check(
        "Ctrl-C: it dies of SIGINT, which shells call 130",
        died,
        "killed by SIGINT" if died else f"exit status {terminal.status}",
    )
    field.remove("broken-off")


def _password(promises: Checklist, field: Field) -> None:
    """On a terminal, where git and ssh could ask; nobody types anything.

    `asking-ssh` asks as ssh(1) does: at /dev/tty, whatever its stdin is.
    """
    first, web, shell, last = field.names[0], "repo-901", "repo-902", field.names[1]
    field.names += [web, shell]
    ssh = field.root / "asking-ssh"
    ssh.write_text('#!/bin/sh\nprintf "password: " >/dev/tty || exit 255\nread -r answer </dev/tty\n')
    ssh.chmod(0o755)
    with asking() as port:
        urls = {
            first: field.url(first),
            web: f"http://127.0.0.1:{port}/private.git",
            shell: "ssh://127.0.0.1/private.git",
            last: field.url(last),
        }
        plan = field.plan("private", urls, head=f'env = {{ GIT_SSH_COMMAND = "{ssh}" }}')
        terminal = Terminal([*BATCH, "--fail", "never", plan], cwd=field.root, columns=COLUMNS)
        ended = terminal.run(HANG_S)
    del field.names[-2:]
    failed = [found[1] for line in terminal.lines if (found := re.match(r"failed +(\S+?):", line))]
    reason = r" +\| .*?((?:could not read Username|cannot create /dev/tty).*)"
    reasons = [found[1] for line in terminal.lines if (found := re.match(reason, line))]
    promises.check(
        "who asks for a password fails, by http and by ssh; on a terminal too nothing hangs",
        ended and sorted(failed) == [web, shell] and terminal.status == 1 and len(reasons) == 2,
        " / ".join(reasons) or f"{named(failed)} failed, exit status {terminal.status}",
    )
    promises.check(
        "the others are synced all the same",
        field.whole("private", [first, last]) == [first, last],
        f"{first} and {last} are whole",
    )
