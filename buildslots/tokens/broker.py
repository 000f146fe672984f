"""What one slot-run does for the jobs of its build while that runs: the `Chore` of `backend`.

Whatever fails here, the build goes on with the tokens that it has.
"""

from __future__ import annotations

import os
import time

from buildslots.tokens.fifo import readable
from buildslots.tokens.jobserver import Jobserver
from buildslots.tokens.selftest import check, forget, listen
from buildslots.tokens.share import BACK, LOCK, OTHERS, PUT, RING, SAY, UNLOCK, UNREAD, Share
from buildslots.tokens.stock import Stock
from buildslots.tokens.stops import runs_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildslots.tokens.builds import Builds
    from buildslots.tokens.share import Other, Steps

MOST_ROUNDS = 100
"""So often it looks again at once because it has done something itself."""
CAPACITY = 65536
"""Bytes that a bell holds."""
BUSY_S, DEAF_S = 0.025, 0.2
"""If clients do something as often as that, and nothing can come of it, it is seen only after a while: a wake
costs 40 to 500 µs, by how busy the machine is, and there may be several for a job."""
STOP_S, STOP_AGAIN_S = 0.1, 0.005
"""How long the processes of a stopped command may take to stop as well; how often that is looked at."""
STOPPED_AGAIN_S = 0.2
"""How often it is looked whether jobs that a stop has not reached have ended."""


class Broker:
    """Offers one job more as long as there is a token, shares with other builds, gives all back at the end.

    Attributes:
        fifo, pair: What the build's `--jobserver-auth=` has to say, as in `Jobserver`.
        descriptors: What the build has to inherit, under these very numbers; none is inheritable yet.
        most: How many tokens the build has had at once.
    """

    __slots__ = (
        "_about",
        "_acts",
        "_builds",
        "_deaf_until",
        "_directory",
        "_has_acted",
        "_has_failed",
        "_is_listening",
        "_is_stopping",
        "_jobserver",
        "_looked_at",
        "_name",
        "_share",
        "_stock",
        "descriptors",
        "fifo",
        "most",
        "pair",
    )

    def __init__(
        self,
        directory: str,
        environ: Mapping[str, str],
        *,
        tokens: int,
        cap: int,
        about: bytes = b"",
    ) -> None:
        """Make the jobserver, and offer a first job if there is a token.

        Args:
            directory: That of the stock, absolute.
            environ: Says where the jobserver may be.
            tokens: How many the stock has: C.
            cap: How many of them the build may have at once.
            about: Lines of the build's record.

        Raises:
            OSError: It cannot be. Nothing is left.
        """
        self._directory, self._about = directory, about
        self._name = os.urandom(8).hex()
        self._builds: Builds | None = None
        self._stock = Stock(directory, tokens)
        try:
            self._jobserver = jobserver = Jobserver(self._name, environ)
        except BaseException:
            self._stock.close()
            raise
        self._share = Share(cap)
        self._deaf_until = self._looked_at = 0.0
        self._is_listening = self._is_stopping = self._has_acted = self._has_failed = False
        self.most = 0
        self._acts: dict[str, Callable[[str], int | list[Other]]] = {
            UNREAD: lambda _: jobserver.unread(),
            OTHERS: lambda _: self._others(),
            LOCK: lambda _: self._lock(),
            UNLOCK: lambda _: self._unlock(),
            PUT: lambda _: self._put(),
            BACK: lambda _: self._back(),
            SAY: lambda _: self._say(),
            RING: self._ring,
        }
        try:
            check(jobserver.fd, jobserver.descriptors[0])
            self._run(self._share.begin(time.monotonic()))
        except BaseException:
            self.close()
            raise
        self.fifo, self.pair = jobserver.fifo, jobserver.pair
        self.descriptors = [self._stock.fd, *jobserver.descriptors]

    # The chore.

    def due_s(self) -> float | None:
        """At once when the command has just started; then when the share says so."""
        if self._has_failed:
            return None
        if self._builds is None:
            return 0.0
        now = time.monotonic()
        due = self._share.due(now)
        if self._deaf_until:
            due = self._deaf_until if due is None else min(due, self._deaf_until)
        if self._is_stopping and not self._share.is_stopped:
            due = now + STOPPED_AGAIN_S if due is None else min(now + STOPPED_AGAIN_S, due)
        return None if due is None else max(0.0, due - now)

    def do(self) -> None:
        """Share."""
        self._safely(self._look)

    def stops(self) -> None:
        """Give all tokens back as soon as no job runs: what is stopped needs none.

        Waits STOP_S for that, because slot-run may stop right after this, and then nobody looks again.
        """
        self._is_stopping = True
        until = time.monotonic() + STOP_S
        while runs_below(os.getpid()) and time.monotonic() < until:
            time.sleep(STOP_AGAIN_S)
        self._safely(self._look)

    def continues(self) -> None:
        """Take tokens again, first those for the jobs that have been stopped."""
        self._is_stopping = self._share.is_stopped = False
        self._safely(self._look)

    def close(self, *, failed: bool = False) -> None:
        """Give all tokens back, and remove all that was made. Idempotent, raises nothing.

        A build that has `failed` may have been killed, or a part of it, and jobs of that run on. For these it
        has not put its bytes back: such a token stays locked until all have ended that have inherited it.
        """
        if self._stock.fd >= 0:
            self._safely(self._give_what_came_back if failed else lambda: self._run(self._share.end()))
        self._stock.close()
        self._jobserver.close()
        if self._builds is not None:
            self._builds.close()
            self._builds = None
        self._has_failed = True  # nothing is to be done any more

    def _give_what_came_back(self) -> None:
        while self._stock.tokens and self._jobserver.unread() and self._jobserver.take_back():
            self._stock.give()
        if self._stock.tokens:
            self._stock.leave()
        for other in self._others():
            if other.is_hungry:
                self._ring(other.name)

    def _safely(self, act: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            act()
        except (OSError, ImportError):  # an upgrade has removed a module
            self._has_failed = True

    def _look(self) -> None:
        if self._builds is None:
            self._begin()
        if self._is_stopping and not self._share.is_stopped:
            self._share.is_stopped = not runs_below(os.getpid())
        is_rung = self._is_rung()
        is_touched = not is_rung
        for _ in range(MOST_ROUNDS):
            self._has_acted = False
            self._run(self._share.look(time.monotonic(), is_rung=is_rung, is_touched=is_touched))
            if not self._has_acted:
                break
            forget()  # but somebody else may have done something, too: look again
            is_rung, is_touched = self._is_rung(), False
        is_to_listen = not (self._is_deaf() or self._share.is_settled())
        if is_to_listen != self._is_listening:
            self._is_listening = is_to_listen
            listen(self._jobserver.fd, on=is_to_listen)
            if is_to_listen:
                self._run(self._share.look(time.monotonic()))

    def _is_deaf(self) -> bool:
        """Whether what clients do is not worth to be heard of before `_deaf_until`."""
        now = time.monotonic()
        is_busy = now - self._looked_at < BUSY_S or now < self._deaf_until
        is_busy = is_busy or (self._deaf_until > 0 and self._jobserver.is_in_use(2 * BUSY_S))
        self._looked_at = now
        if not (is_busy and self._share.is_patient(now)):
            self._deaf_until = 0.0
        elif now >= self._deaf_until:
            self._deaf_until = now + DEAF_S
        return self._deaf_until > 0

    def _begin(self) -> None:
        """The command runs: from now on signals are for us."""
        from buildslots.tokens.builds import Builds  # noqa: PLC0415 - now, when the command runs already

        self._builds = Builds(self._directory, self._name, self._about)
        self._builds.say(self._share)
        listen(self._builds.bell)
        self._builds.tidy()
        self._jobserver.tidy()

    def _is_rung(self) -> bool:
        if self._builds is None or not readable(self._builds.bell):
            return False
        try:
            return bool(os.read(self._builds.bell, CAPACITY))
        except BlockingIOError:
            return False  # somebody else has read it

    def _run(self, steps: Steps) -> None:
        """Do what `steps` ask for. Raises OSError."""
        acts = self._acts
        try:
            what, whom = next(steps)
            while True:
                what, whom = steps.send(acts[what](whom))
        except StopIteration:
            pass

    # What a share asks for.

    def _lock(self) -> int:
        taken = self._stock.take()
        self.most = max(self.most, len(self._stock.tokens))
        return taken

    def _unlock(self) -> int:
        self._stock.give()
        return 0

    def _put(self) -> int:
        self._has_acted = True
        self._jobserver.put()
        return 0

    def _back(self) -> int:
        self._has_acted = True
        return self._jobserver.take_back()

    def _say(self) -> int:
        if self._builds is not None:
            try:
                self._builds.say(self._share)
            except OSError:
                pass  # the disk is full
        return 0

    def _others(self) -> list[Other]:
        try:
            return [] if self._builds is None else self._builds.others()
        except OSError:
            return []  # the directory cannot be read any more

    def _ring(self, name: str) -> int:
        if self._builds is not None:
            self._builds.ring(name)
        return 0
