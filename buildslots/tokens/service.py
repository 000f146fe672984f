"""Serving one build: from its settings to what its command is started with, and to the chore of that time.

Whatever fails, the build runs: with `--jobs N` each of its programs has a fixed share then, and without that
the command is the original one.
"""

from __future__ import annotations

import os
import sys

from buildslots.settings.values import DEFAULT_POOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from buildslots.backend import Chore
    from buildslots.settings import Settings
    from buildslots.tokens.broker import Broker
    from buildslots.tokens.commands import Told


class Service:
    """What a build is started with.

    Attributes:
        command: Its arguments.
        environ: Variables that it gets besides, or in place of others; None for one that it does not get.
    """

    __slots__ = ("_broker", "command", "environ")

    def __init__(self, told: Told, broker: Broker | None = None) -> None:
        self.command = told.command
        self.environ = told.environ
        self._broker = broker

    @property
    def descriptors(self) -> list[int]:
        """What it has to inherit, under these very numbers; none is inheritable yet.

        For `subprocess`: `pass_fds=service.descriptors`.
        """
        return [] if self._broker is None else self._broker.descriptors

    @property
    def chores(self) -> list[Chore]:
        """What has to be done while it runs, first at its start; nothing if it takes no tokens."""
        return [] if self._broker is None else [self._broker]

    @property
    def tokens_max(self) -> int | None:
        """How many tokens it had at once, at most; None if it takes none."""
        return None if self._broker is None else self._broker.most

    def change(self, environ: MutableMapping[str, str]) -> None:
        """Do to `environ`, the build's environment without us, what `self.environ` says."""
        for name, value in self.environ.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value

    def close(self, *, failed: bool = False) -> None:
        """Give all tokens back; of a build that has `failed` those that no job may have. See `Broker.close`.

        Idempotent, raises nothing.
        """
        if self._broker is not None:
            self._broker.close(failed=failed)


class Build:
    """What is asked for a build. Never changed.

    Attributes:
        command: Its arguments; empty if they are not known.
        environ: Its environment without us.
        tokens: C, of how many tokens it may have its share; None for none.
        jobs: N of `--jobs N`, or None.
        directory: That of the stock.
        nonce: What marks its slot's holding, so that others can tell whose tokens these are; "" for none.
        cwd: Its directory, if that is not the one of this process.
    """

    __slots__ = ("command", "cwd", "directory", "environ", "jobs", "nonce", "tokens")

    def __init__(  # noqa: PLR0913 - by keyword only
        self,
        *,
        command: Sequence[str],
        environ: Mapping[str, str],
        tokens: int | None,
        jobs: int | None,
        directory: str,
        nonce: str = "",
        cwd: str = "",
    ) -> None:
        self.command = command
        self.environ = environ
        self.tokens = tokens
        self.jobs = jobs
        self.directory = directory
        self.nonce = nonce
        self.cwd = cwd


def stock_dir(settings: Settings) -> str:
    """The directory of this machine's stock: that of the default pool, whatever pool the build is of."""
    if settings.pool == DEFAULT_POOL:
        return settings.dir
    return os.path.dirname(os.path.dirname(settings.dir))


def serve(build: Build, say: Callable[[str], None]) -> Service | None:
    """Serve the jobs of a build, by tokens if it is to have some, else by a fixed share of `--jobs N`.

    Raises nothing.

    Args:
        build: What is asked for.
        say: Called with a sentence if it was to have tokens and cannot.

    Returns:
        What to start it with; None if that is its command and its environment as they are.
    """
    service: Service | None = None
    if build.tokens:
        try:
            service = _with_tokens(build, build.tokens)
        except Exception as error:  # noqa: BLE001 - whatever it is, the build has to run
            say(f"no CPU tokens: {error if isinstance(error, OSError) else repr(error)}")
    if service is not None or build.jobs is None:
        return service
    try:
        from buildslots.tokens import fixed  # noqa: PLC0415

        return Service(fixed.told(build.command, build.environ, build.jobs))
    except Exception as error:  # noqa: BLE001 - the same
        say(f"running without --jobs: {error if isinstance(error, OSError) else repr(error)}")
        return None


def _with_tokens(build: Build, tokens: int) -> Service | None:
    """Serve it by tokens; None if there is nothing to serve. Raises whatever keeps it from that."""
    if sys.platform != "linux":
        raise OSError("only Linux has what they need")
    from buildslots.tokens.makeflags import has_jobserver  # noqa: PLC0415

    if has_jobserver(build.environ):
        return None  # whoever is above us serves it
    from buildslots.files import check_root, make_parents  # noqa: PLC0415
    from buildslots.tokens.broker import Broker  # noqa: PLC0415 - Linux only
    from buildslots.tokens.plan import Plan  # noqa: PLC0415
    from buildslots.tokens.stock import STOCK  # noqa: PLC0415

    plan = Plan(build.command, build.environ, build.jobs, build.cwd)
    cap = tokens if plan.jobs is None else min(tokens, plan.jobs - 1)
    if cap < 1 or plan.is_left_alone:
        return None  # its one job needs no token; or it does not listen to its own -jN below a jobserver
    check_root(build.directory)
    make_parents(f"{build.directory}/{STOCK}")  # missing where all builds were of pools on servers so far
    about = {"nonce": build.nonce, "unserved": plan.unserved}
    lines = "".join(f"{name} {value}\n" for name, value in about.items() if value)
    broker = Broker(
        build.directory, build.environ, tokens=tokens, cap=cap, about=lines.encode("ascii", "replace")
    )
    try:
        return Service(plan.told(cap, broker.fifo, broker.pair), broker)
    except BaseException:
        broker.close()
        raise
