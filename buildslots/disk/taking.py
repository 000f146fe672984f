"""Taking slots: locking the lowest, counting the others; and which slots are held.

Relies on `disk.lock` for the truth. PROTOCOL.md says why nothing else is needed for the bound.
"""

from __future__ import annotations

import errno
import os
import time

from buildslots.backend import Refusal
from buildslots.disk.holding import Hold, Locks
from buildslots.disk.lock import has_name, is_locked, locked, open_lock, try_lock
from buildslots.files import PLAIN
from buildslots.processes import close_kept, forget, keep_from_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildslots.backend import Request
    from buildslots.disk.rules import Rules
    from buildslots.settings import Settings

LOOKS = 10
"""How often a slot is tried that is not held but looked at, which takes a microsecond."""
SKIPPED = 8
"""So many slots that are looked at all the time are passed over one by one; with more, somebody does that on
purpose, and the first number that no slot has yet is next."""
MANY = 64
"""With more slot files than that it is worth a look whether some are one file."""
TAKE_S = 0.5
"""How long one try to take slots may last. Nearly always it is over in some microseconds a slot."""
OPEN_MAX = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 1024
if OPEN_MAX < 0:  # "unlimited", on macOS
    OPEN_MAX = 2**20
LARGEST = 10**9 - 1
"""The largest number that a slot can have."""
FDS_A_SLOT = 6
"""Descriptors that a slot takes at most while it is taken and handed down."""


def rules_of(directory: str, told: list[str] | None = None) -> Rules | None:
    """The rules of the pool in `directory`; None if it has none, as nearly always. Raises nothing.

    If what is there counts as absent, `told` gets a sentence that says why, once.
    """
    try:
        fd = os.open(f"{directory}/rules", os.O_RDONLY | PLAIN)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno is None:
            raise  # no system call's: somebody has put it into this thread
        fd = -1
    from buildslots.disk import rules  # noqa: PLC0415 - most pools have none

    found = rules.read(directory) if fd < 0 else rules.read_open(fd, directory)
    if found is not None and found.problem is not None and told is not None and found.problem not in told:
        told.append(found.problem)
    return found


def tokens_of(settings: Settings) -> int | None:
    """C, of how many CPU tokens a build by `settings` may have its share; None for none. Pools may say it."""
    is_own = settings.source("tokens") != "default"
    return ruled_tokens(settings.dir, settings.tokens, is_own=is_own)


def ruled_tokens(directory: str, own: int | None, *, is_own: bool) -> int | None:
    """The same for a caller of the pool in `directory` that has said `own` itself, if it has (`is_own`)."""
    rules = rules_of(directory)
    if rules is None or rules.tokens is None:
        return own
    from buildslots.settings import auto_tokens  # noqa: PLC0415 - most pools have no rules

    return rules.tokens_of(own, auto_tokens()[0], is_own=is_own)


def take(
    directory: str,
    request: Request,
    most: int | None = None,
    *,
    gates: bool = True,
    told: list[str] | None = None,
) -> Hold | Refusal:
    """Take the lowest free slots, all that it needs, if fewer than its limit are held.

    For the head of the line, or under the mutex. Locks first and counts then: of two processes that take at
    the same moment the one that counts last sees the lock of the other, so both cannot pass.

    Args:
        directory: Of the pool.
        request: What is wanted.
        most: Below how many held slots it may start, if that is less than its limit.
        gates: Whether the state of the machine matters.
        told: Gets a sentence about rules that count as absent.

    Raises:
        OSError: Something of the pool cannot be used. Nothing is held.
    """
    rules = rules_of(directory, told)
    if rules is not None:
        pause = rules.pause(time.time())
        if pause is not None:
            return Refusal(request.limit, str(pause), is_paused=True)
        request = rules.applied(request)
    limit = request.limit if most is None else min(most, request.limit)
    _check_weight(request.weight)
    locks = Locks()
    try:
        held = _lock_lowest(directory, request.weight, limit, locks)
        # Never while nothing else of the pool runs: what is in the way then is none of its builds.
        gate = request.gates.closed_by() if gates and request.gates and 0 < held < limit else None
        if held < limit and gate is None:
            return Hold(directory, locks, request, despite=None)
        return Refusal(held, gate)
    finally:
        locks.let_go()


def _check_weight(weight: int) -> None:
    """Raise OSError (EMFILE) if no process could have `weight` slots, before a file of them is made."""
    if weight > max(1, OPEN_MAX // FDS_A_SLOT):
        text = f"{weight} slots together need more open files than the {OPEN_MAX} of `ulimit -n`"
        raise OSError(errno.EMFILE, text)


def _lock_lowest(directory: str, weight: int, limit: int, locks: Locks) -> int:
    """Lock the lowest slots into `locks`: how many others are held, `limit` if there are so many or more.

    The same if it cannot be told within TAKE_S, because of masses of slots.
    """
    until = time.monotonic() + TAKE_S
    held: set[int] = set()
    number = skipped = 0
    while len(locks) < weight and len(held) < limit:
        is_held = lock_slot(directory, number, locks, LOOKS if skipped < SKIPPED else 1)
        if is_held:
            held.add(number)
        elif is_held is None:
            skipped += 1
            if skipped == SKIPPED:
                number = _above_all(directory, number)
            elif skipped > SKIPPED and time.monotonic() > until:
                return limit
        number += 1
    return count_held(directory, limit, locks, held, until) if len(held) < limit else limit


def count_held(directory: str, limit: int, locks: Locks, held: set[int], until: float) -> int:
    """How many slots others hold, those in `held` included; `limit` if so many or more, or if time is up.

    What was held already counts, though it may be free by now: that errs on the safe side.
    """
    for count, number in enumerate(slot_numbers(directory)):
        if number in locks or number in held:
            continue
        if locked(f"{directory}/slot-{number}") and not _is_one_of(locks, directory, number):
            held.add(number)
        if len(held) >= limit or (count & 255 == 255 and time.monotonic() > until):
            return limit
    return len(held)


def _above_all(directory: str, number: int) -> int:
    """`number`, or the largest that a slot has, if that is larger; behind the last possible one, any.

    Of all names: the lowest of many names of one file, as `slot_numbers` has it, would be no way past them.
    """
    largest = max([number, *_numbers(os.listdir(directory))])
    return largest if largest < LARGEST else max(number, int.from_bytes(os.urandom(4), "big") % LARGEST)


def lock_slot(directory: str, number: int, locks: Locks, looks: int, flags: int = os.O_CREAT) -> bool | None:
    """Lock slot `number` into `locks`: False. True if it is held. None if somebody looks at it all the time.

    Who looks at a slot has a shared lock of it, which is none that counts, but keeps us from locking it.
    """
    path = f"{directory}/slot-{number}"
    if number > LARGEST:
        raise OSError(errno.ERANGE, "no slot has so large a number", path)
    for _ in range(looks):
        fd = open_lock(path, flags)
        keep_from_children(fd)
        try:
            if try_lock(fd):
                if has_name(fd, path):
                    locks[number] = fd
                    return False
            elif is_locked(fd) and has_name(fd, path):
                return True
        finally:
            if locks.get(number) == fd:
                forget(fd)
            else:
                close_kept(fd)
    return None


def _is_one_of(locks: Locks, directory: str, number: int) -> bool:
    """Whether slot `number` is another name of one of `locks`, which somebody has given it."""
    try:
        about = os.stat(f"{directory}/slot-{number}")
    except OSError:
        return False
    return any(os.path.samestat(about, os.fstat(fd)) for fd in locks.values())


def take_despite(directory: str, request: Request, gate: str | None) -> Hold | None:
    """Take free slots below the cap if nothing but `gate` kept the request from them; None if something did.

    Under the mutex. Raises what `take` does.
    """
    if gate is None:
        return None
    found = take(directory, request, gates=False)
    if isinstance(found, Refusal):
        return None
    found.despite = gate
    return found


def take_beyond(directory: str, request: Request, gate: str | None) -> Hold:
    """Take the lowest free slots numbered `request.cap` or above, without counting. Only under the mutex.

    Unless those below are free, and nothing but `gate` kept the request from them: then those. Raises what
    `take` does.
    """
    if found := take_despite(directory, request, gate):
        return found
    rules = rules_of(directory)
    if rules is not None:
        request = rules.applied(request)
    _check_weight(request.weight)
    locks = Locks()
    number = request.cap
    until = time.monotonic() + TAKE_S
    try:
        while len(locks) < request.weight:
            late = time.monotonic() > until
            lock_slot(directory, number, locks, 1 if late else LOOKS)
            number = _above_all(directory, number) + 1 if late and number not in locks else number + 1
        return Hold(directory, locks, request, overflow=True, despite=gate)
    finally:
        locks.let_go()


def slot_numbers(directory: str) -> list[int]:
    """The numbers of all slot files in the pool, ascending; of many names of one file, the lowest."""
    numbers = _numbers(os.listdir(directory))
    if len(numbers) > MANY:
        files: dict[int, int] = {}
        with os.scandir(directory) as entries:
            for entry in entries:
                for number in _numbers([entry.name]):
                    files[entry.inode()] = min(number, files.get(entry.inode(), number))
        # Some file systems tell the same inode of all files.
        if len(files) > 1 or _is_same(directory, numbers[0], numbers[-1]):
            numbers = list(files.values())
    numbers.sort()
    return numbers


def _is_same(directory: str, one: int, other: int) -> bool:
    """Whether the two slots are one file; True if one of them is gone."""
    try:
        return os.path.samestat(*(os.lstat(f"{directory}/slot-{number}") for number in (one, other)))
    except OSError:
        return True


def held_slots(directory: str) -> list[int]:
    """The numbers of the held slots, ascending. Those not come to within TAKE_S count as held.

    Exact only under the mutex. Raises OSError.
    """
    until = time.monotonic() + TAKE_S
    numbers = slot_numbers(directory)
    held: list[int] = []
    for count, number in enumerate(numbers):
        if count & 255 == 255 and time.monotonic() > until:
            return held + numbers[count:]
        if locked(f"{directory}/slot-{number}"):
            held.append(number)
    return held


def _numbers(names: Iterable[str]) -> list[int]:
    """N of each name that is `slot-N`, without leading zeros."""
    digits = [name[5:] for name in names if name.startswith("slot-")]
    return [int(n) for n in digits if n.isdecimal() and len(n) < 10 and n == str(int(n))]
