"""Jobs of a child process, served by a thread of the program that has started it.

slot-run's loop takes SIGIO, and a program is not ours to have its signals taken. But the kernel sends the
SIGIO of a FIFO to the one thread that wants it (F_OWNER_TID in fcntl(2)): it is blocked in this thread, which
takes it by sigwaitinfo(2), and no other thread and no handler of the program ever sees it. A thread that
sleeps so costs nothing. A process in its place would take 20 ms and 10 MB to start.
"""

from __future__ import annotations

import os
import signal
import threading
from _thread import start_new_thread
from types import BuiltinFunctionType

from buildslots.tokens.service import Build, serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from buildslots.tokens.service import Service

CLOSE_S = 5.0
"""So long the thread may take to give all tokens back. It needs a millisecond, if anything else can run."""


class ServedJobs:
    """What to start a child process with so that its jobs are served while the block runs.

    >>> with SlotPool().acquire() as slot, slot.jobserver(["make", "-j8"], jobs=4) as jobs:
    ...     subprocess.run(jobs.command, env=jobs.environ, pass_fds=jobs.descriptors, check=True)

    Serves one child, or several that share its jobs. Whatever fails, they run: with fixed shares, or as they
    would without this.

    Attributes:
        command: The arguments to run; without the -jN of a make, ninja or `cmake --build`, which would have
            its own jobs by that.
        environ: Its whole environment.
        changes: What that has besides what it started from, or in place of it; None for what is not there.
        descriptors: What it has to inherit, under these very numbers: `pass_fds=jobs.descriptors`.
        tokens_max: How many tokens it had at once, at most; None if it takes none. Known after the block.
        has_failed: Whether the child has. A part of it may have been killed then, and its jobs run on: they
            keep their tokens. An exception that ends the block says so by itself.
    """

    def __init__(
        self,
        build: Build,
        say: Callable[[str], None],
        inherited: Sequence[int],
        told: Callable[[int], None],
    ) -> None:
        """Made by this package only.

        Args:
            build: What is asked for.
            say: Called with a sentence if it was to have tokens and cannot.
            inherited: Descriptors that the child is to have besides.
            told: Called at the end with how many tokens it had at once, if it had any.
        """
        self._build = build
        self._say = say
        self._told = told
        self._service: Service | None = None
        self._thread: threading.Thread | None = None
        self._is_ready = threading.Event()
        self._is_entered = self._is_over = self.has_failed = False
        self._pid = os.getpid()
        self._said: list[str] = []
        self.command = list(build.command)
        self.environ = dict(build.environ)
        self.changes: dict[str, str | None] = {}
        self.descriptors = list(inherited)
        self.tokens_max: int | None = None

    def __enter__(self) -> Self:
        """Begin to serve. Raises RuntimeError the second time: what has ended is not served again."""
        if self._is_entered:
            raise RuntimeError("these jobs were served already: call jobserver() again for others")
        self._is_entered = True
        try:
            self._begin()
        except BaseException as error:  # Ctrl-C
            self.__exit__(type(error), error, None)
            raise
        return self

    def _begin(self) -> None:
        if not self._build.tokens or not hasattr(signal, "sigtimedwait"):
            self._service = serve(self._build, self._say)
        elif not isinstance(start_new_thread, BuiltinFunctionType):
            self._without_tokens("gevent or eventlet has replaced the threads of this program")
        else:
            self._thread = threading.Thread(target=self._run, name="buildslots: jobs", daemon=True)
            # The thread inherits the mask, and so there is no moment at which SIGIO would end the program.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
            try:
                self._thread.start()
            except RuntimeError as error:  # this user has too many
                self._thread = None
                self._without_tokens(str(error))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if self._thread is not None:
                self._is_ready.wait()
        for sentence in self._said:
            self._say(sentence)
        if self._service is not None:
            self.command = self._service.command
            self.descriptors += self._service.descriptors
            self.changes = self._service.environ
            self._service.change(self.environ)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pid != os.getpid():
            return  # a forked child: its parent's jobs go on
        self.has_failed = self.has_failed or kind is not None
        self._is_over = True
        thread, self._thread = self._thread, None
        if thread is not None and thread.ident is not None and thread.is_alive():
            if self._is_ready.is_set():  # else it has not slept yet, and sees that it is over before it does
                signal.pthread_kill(thread.ident, signal.SIGIO)
            thread.join(CLOSE_S)
        if self._service is not None and self._service.tokens_max is not None:
            self.tokens_max = self._service.tokens_max
            self._told(self.tokens_max)

    def _without_tokens(self, why: str) -> None:
        self._say(f"no CPU tokens: {why}")
        build = self._build
        self._service = serve(
            Build(
                command=build.command,
                environ=build.environ,
                tokens=None,
                jobs=build.jobs,
                directory=build.directory,
            ),
            self._say,
        )

    def _run(self) -> None:
        """Serve them: the life of the thread, in which SIGIO is blocked from the beginning."""
        try:
            self._service = service = serve(self._build, self._said.append)
        finally:
            self._is_ready.set()
        chores = [] if service is None else service.chores
        try:
            while chores and not self._is_over:
                due_s = min((due for chore in chores if (due := chore.due_s()) is not None), default=None)
                if due_s is None:
                    signal.sigwaitinfo({signal.SIGIO})
                else:
                    signal.sigtimedwait({signal.SIGIO}, max(0.0, due_s))
                for chore in chores:
                    if not self._is_over:
                        chore.do()
        finally:
            if service is not None:
                service.close(failed=self.has_failed)
