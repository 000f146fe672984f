"""`buildslots release`: end what keeps a slot although its build is gone, after saying what and asking.

Nobody needs it in normal life, because a slot is free when its build ends. It never ends this process or one
above it, process 1, or processes of another user or pid namespace. Where others can write the pool, they can
make any process look as if it kept a slot. There nothing is ended without a question unless it provably
belongs to the recorded build (`proof`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import islice

import psutil

from buildslots.disk import records
from buildslots.settings import resolve
from buildslots.status import pool_status
from buildslots.view import warn
from buildslots.view.health import keepers, proof
from buildslots.view.pools import unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping

    from buildslots.settings import Settings
    from buildslots.status import Holder

TERM_S = 5.0
"""How long processes have to end after SIGTERM, and how long the system has after SIGKILL."""
STEP_S = 0.1
FREED_S = 2.0
"""How long a slot may stay held after the end of the processes that kept it."""
MOST_LOOKED_INTO = 100
"""How many held slots are looked into when none is named. Each one without a running build needs a look at
all processes."""
LEASES = (
    "nothing to release: slots on a server are leases, which nothing can keep but a build that runs, on some"
    " machine; who is gone loses its own within a lease (`buildslots status` says who is silent)"
)
NOT_FOUND = "whoever has it cannot be found: gone by now, or hidden from you"
LEFT_ALONE = {
    keepers.BUILD: "its build runs",
    keepers.RUNS_ON: "its build runs, though who took it was killed",
    keepers.FOREIGN: "another program has locked it",
    keepers.ELSEWHERE: "it is held from another container or machine",
    keepers.UNSEEN: "whoever has it is hidden from you",
}


def run(options: argparse.Namespace) -> int:
    """Release the slots that the options name, or those that strays keep: 1 if one of them stays held."""
    settings = resolve(pool=options.pool, dir=options.dir, warn=warn)
    if sentence := unknown(settings, options.dir):
        warn(sentence)
        return 1
    if "url" in settings.said:
        _say(LEASES)
        return int(bool(options.slots or options.ownerless))
    held = {slot: holder for holder in pool_status(settings).holders for slot in holder.slots}
    wanted = _ownerless(held) if options.ownerless else _named(options.slots, held)
    if options.ownerless and not wanted:
        _say("no build is ownerless")
        return 0
    holders = {held[slot].slot: held[slot] for slot in (wanted or held) if slot in held}
    most = len(holders) if wanted else MOST_LOOKED_INTO
    found = [keepers.kept(settings.dir, holder) for holder in islice(holders.values(), most)]
    if len(holders) > most:
        _say(f"{len(holders) - most} more held slots were not looked into: name those that you mean")
    if not wanted:
        for kept in found:
            if kept.state != keepers.STRAY:
                slots = keepers.slots_of(kept.holder)
                _say(f"{slots} {_is(kept.holder)} left alone: {LEFT_ALONE[kept.state]} {_whose(kept.holder)}")
        found = [kept for kept in found if kept.state == keepers.STRAY]
        if not found:
            _say("nothing to release")
    # A list, so that after one failure the others are released all the same.
    return int(not all([_release(settings, kept, yes=options.yes) for kept in found]))  # noqa: C419


def _named(slots: list[int], held: Mapping[int, Holder]) -> list[int]:
    """The `slots` that were named, after saying which of them are not held."""
    wanted = sorted(set(slots))
    for slot in wanted:
        if slot not in held:
            _say(f"slot {slot} is not held")
    return wanted


def _ownerless(held: Mapping[int, Holder]) -> list[int]:
    return [slot for slot, holder in held.items() if holder.ownerless]


def _release(settings: Settings, kept: keepers.Kept, *, yes: bool) -> bool:
    """Say what has the slot, ask, and end it; return whether the slot was freed."""
    slot, before = keepers.slots_of(kept.holder), _mark(settings, kept.holder)
    candidates = _candidates(settings, kept, yes=yes)
    roots, refused = _roots(kept, candidates)
    for why in refused:
        _say(f"{slot}: {why}")
    if not roots:
        return not refused and _is_gone(settings, kept, before)
    for root in roots:
        _say(f"{slot}: {_role(kept)} {keepers.described(root)}, {_processes([root])}")
    doubtful = _doubtful(settings, kept, candidates)
    for process in doubtful:
        _say(f"{slot}: others can write this pool, and nothing proves that {process.pid} is of that build")
    if not (yes and not doubtful) and not _agreed(kept, roots, yes=yes):
        return False
    now = _holder(settings, kept.holder, before)
    if now is None or _mark(settings, now) != before:  # an answer may take long
        _say(f"{slot} {_is(kept.holder, 'was', 'were')} freed meanwhile; nothing was ended")
        return True
    _end(_tree(roots), slot)
    return _is_freed(settings, kept.holder, before)


def _is_gone(settings: Settings, kept: keepers.Kept, before: tuple[object, ...]) -> bool:
    """Say and return whether the slot is free by now: a keeper of several slots ends with the first."""
    now = _holder(settings, kept.holder, before)
    if now is not None and _mark(settings, now) == before:
        _say(f"{keepers.slots_of(kept.holder)}: {NOT_FOUND}")
        return False
    _say(f"{keepers.slots_of(kept.holder)} {_is(kept.holder)} free")
    return True


def _doubtful(
    settings: Settings, kept: keepers.Kept, candidates: list[psutil.Process]
) -> list[psutil.Process]:
    """Those of the `candidates` that we may end, but that others may have led us to.

    If there is one, nothing that has the slot is ended without a question: slot-run itself may be among them,
    and then the build runs, whatever the record says.
    """
    if proof.is_private(settings.dir):
        return []
    marks = proof.marks(settings.dir, kept.holder.slots)
    permitted, _ = _permitted(candidates)
    return [process for process in permitted if not proof.belongs(process, marks)]


def _candidates(settings: Settings, kept: keepers.Kept, *, yes: bool) -> list[psutil.Process]:
    """The processes that have the slot; of a running build only the one that took it, which ends the build.

    With `yes` in a pool that others can write, only a process with a proof can be ended. slot-run has none,
    because it was started without a mark. So the build itself is ended then, and slot-run after it.
    """
    if kept.state != keepers.BUILD:
        return list(kept.processes)
    if yes and not proof.is_private(settings.dir):
        marks = proof.marks(settings.dir, kept.holder.slots)
        found = keepers.keepers(f"{settings.dir}/slot-{kept.holder.slot}")
        if proven := [process for process in found if proof.belongs(process, marks)]:
            return proven
    taker = keepers.taker(settings.dir, kept.holder)
    return [] if taker is None else [taker]


def _role(kept: keepers.Kept) -> str:
    if kept.state in {keepers.BUILD, keepers.RUNS_ON}:
        return "ITS BUILD STILL RUNS:"
    return "another program has locked it:" if kept.state == keepers.FOREIGN else "kept by"


def _roots(kept: keepers.Kept, processes: list[psutil.Process]) -> tuple[list[psutil.Process], list[str]]:
    """The `processes` to end, with their children, and for the others why they are not to be ended."""
    if kept.state == keepers.ELSEWHERE:
        return [], ["it is held from another container or machine, and can be released only there"]
    if not processes:
        return [], [NOT_FOUND]
    permitted, refused = _permitted(processes)
    # Without those that stand below another one: its tree has them.
    below = {child for process in permitted for child in _tree([process])[1:]}
    return [process for process in permitted if process not in below], refused


def _permitted(processes: Iterable[psutil.Process]) -> tuple[list[psutil.Process], list[str]]:
    """Those of `processes` that may be ended, and of the others, why not."""
    permitted, refused = [], []
    for process in processes:
        why = _forbidden(process)
        if why is None:
            permitted.append(process)
        elif why:
            refused.append(f"{keepers.described(process)} is left alone: {why}")
    return permitted, refused


def _forbidden(process: psutil.Process) -> str | None:
    """Why `process` must not be ended; None if it may be ended, "" if it has ended already."""
    this = psutil.Process()
    reasons: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: process.pid == 1, "it is process 1"),
        (lambda: process == this, "it is this process"),
        (lambda: process in this.parents(), "this command runs under it"),
        (lambda: not proof.is_ours(process), "it is another user's"),
        (
            lambda: not keepers.in_our_namespace(process.pid),
            "it lives in another pid namespace, or may not be looked at",
        ),
    )
    try:
        why = next((text for applies, text in reasons if applies()), None)
        return why if process.is_running() else ""
    except psutil.NoSuchProcess:
        return ""
    except psutil.AccessDenied:
        return "it may not be looked at"


def _tree(roots: list[psutil.Process]) -> list[psutil.Process]:
    """`roots` and all that they have started, without those that ended meanwhile."""
    found: dict[psutil.Process, None] = {}
    for root in roots:
        try:
            found.update(dict.fromkeys([root, *root.children(recursive=True)]))
        except psutil.Error:
            continue
    return list(found)


def _processes(roots: list[psutil.Process]) -> str:
    count = len(_tree(roots))
    return "1 process" if count == 1 else f"{count} processes"


def _agreed(kept: keepers.Kept, roots: list[psutil.Process], *, yes: bool) -> bool:
    if not sys.stdin.isatty():
        why = "here --yes is not enough" if yes else "no --yes"
        _say(f"not done: there is no terminal to ask on, and {why}")
        return False
    what = "the running build" if kept.state in {keepers.BUILD, keepers.RUNS_ON} else "them"
    try:
        return input(f"End {what} ({_processes(roots)})? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _end(tree: list[psutil.Process], slot: str) -> None:
    """End all of `tree` that may be ended: SIGTERM first, SIGKILL to what is left after that."""
    permitted, refused = _permitted(tree)
    for why in refused:
        _say(f"{slot}: {why}")
    alive = _ended(permitted, signal.SIGTERM)
    if alive:
        _ended(alive, getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows both are the end


def _ended(processes: list[psutil.Process], signum: signal.Signals) -> list[psutil.Process]:
    """Send a signal, wait, and return the processes that live on."""
    for process in processes:
        try:
            _send(process, signum)
        except (OSError, psutil.Error):
            pass  # gone; or not ours, and then `_is_freed` names it as what still has the slot
    deadline = time.monotonic() + TERM_S
    alive = processes
    # In steps, because wait_procs waits for a zombie that nobody reaps until its timeout.
    while alive and time.monotonic() < deadline:
        alive = [process for process in psutil.wait_procs(alive, timeout=STEP_S)[1] if _lives(process)]
    return alive


def _send(process: psutil.Process, signum: signal.Signals) -> None:
    """Send a signal to `process`, and never to another process that has its pid by now.

    A pidfd stays bound to one process (pidfd_open(2), Linux 5.3). Where there is none, psutil compares the
    start of the process and then sends by pid. Raises OSError and `psutil.Error`.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        process.send_signal(signum)
        return
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError:  # an old kernel, a filter of system calls, no descriptor left
        process.send_signal(signum)
        return
    try:
        if process.is_running():
            signal.pidfd_send_signal(fd, signum)
    finally:
        os.close(fd)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_freed(settings: Settings, holder: Holder, before: tuple[object, ...]) -> bool:
    """Look again and say what became of the slots of `holder`; return whether they were freed."""
    slot, now = keepers.slots_of(holder), _holder(settings, holder, before)
    deadline = time.monotonic() + FREED_S
    while now is not None and _mark(settings, now) == before and time.monotonic() < deadline:
        time.sleep(STEP_S)  # the build has ended, and its slot-run does not know yet
        now = _holder(settings, holder, before)
    if now is None:
        _say(f"{slot} {_is(holder)} free")
        return True
    its = keepers.slots_of(now)
    if _mark(settings, now) != before:
        them = its if holder.weight > 1 else "it"
        _say(f"{slot} {_is(holder, 'was', 'were')} freed, and the next build has {them} {_whose(now)}")
        return True
    who = ", ".join(keepers.described(p) for p in keepers.keepers(f"{settings.dir}/slot-{now.slot}"))
    _say(f"{its} {_is(now)} still held by {who or 'a process that is hidden from you'}")
    return False


def _is(holder: Holder, one: str = "is", several: str = "are") -> str:
    return several if holder.weight > 1 else one


def _holder(settings: Settings, before: Holder, mark: tuple[object, ...]) -> Holder | None:
    """The holder of a slot that `before` had, as it is now; the one with `mark` if that still has any."""
    now = [holder for holder in pool_status(settings).holders if set(holder.slots) & set(before.slots)]
    return next((holder for holder in now if _mark(settings, holder) == mark), now[0] if now else None)


def _mark(settings: Settings, holder: Holder) -> tuple[object, ...]:
    """What tells this holding of a slot from the next; not the pid, as a program may take slot after slot."""
    if holder.foreign:
        return True, holder.pid
    record = records.read(f"{settings.dir}/holders/slot-{holder.slot}") or {}
    return False, holder.pid, record.get("nonce")


def _whose(holder: Holder) -> str:
    return f"({holder.pid or '?'} {keepers.quoted(holder.command)})"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
