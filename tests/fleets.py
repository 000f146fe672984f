"""A pool on a real server, with builds in it: `builds.Pool` where the slots are elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from builds import Build, Pool, wait_until

from buildslots.fleet.connection import run
from buildslots.settings.address import Address, parse_url

if TYPE_CHECKING:
    from servers import Server

    from buildslots.fleet.replies import Rules, Status

NAME = "license"
SHORT_S, CONFIRM_S = 3.0, 1.0
"""The lease of a pool whose leases are to end within a test, and its time to confirm."""


class Fleet(Pool):
    """The pool "license" on `server`, as a user's config file has it. It is the one that is used unless said.

    Its directory is that of the pool of the same name on this machine.
    """

    def __init__(self, server: Server, home: Path, environ: dict[str, str]) -> None:
        super().__init__(Path(environ["BUILD_SLOTS_DIR"]) / "pools" / NAME, environ)
        self.server = server
        self.script = server.script(NAME)
        self.url = f"unix://{server.path}/0/{NAME}"
        self._config = home / ".config/buildslots/config.toml"
        self._config.parent.mkdir(parents=True, exist_ok=True)
        self.environ["BUILD_SLOTS_POOL"] = NAME
        self.configure()

    def configure(self, *lines: str) -> None:
        """Have these lines in the config file besides, in the table of the pool."""
        self._config.write_text("\n".join([f"[pools.{NAME}]", f'url = "{self.url}"', *lines, ""]))

    def create(self, slots: int, **times: float) -> Rules:
        """Make it."""
        return run(self.script.create("tests", slots, **times))

    def create_short(self, slots: int) -> Rules:
        """Make it with leases that end soon."""
        return self.create(slots, lease_s=SHORT_S, ticket_s=SHORT_S, confirm_s=CONFIRM_S)

    def seen(self) -> Status:
        """What there is to see of it."""
        return run(self.script.status())

    def used(self) -> int:
        """How many of its slots are held."""
        return self.seen().used

    def address(self, **how: Any) -> Address:
        """Where it is."""
        return parse_url(self.url, "test").having(directory=str(self.dir), **how)

    def queued(self, *options: str, **popen: object) -> Build:
        """Start a build and wait until it is in line behind all others."""
        before = self.seen().length
        build = self.build(*options, **popen)
        wait_until(lambda: self.seen().length == before + 1, "one more waiter")
        return build

    def wait_for_used(self, slots: int) -> None:
        """Wait until so many slots are held."""
        wait_until(lambda: self.used() == slots, f"{slots} slots held")

    def build(self, *options: str, **popen: object) -> Build:
        """Start `slot-run OPTIONS` with a build that runs until `finish()`."""
        return super().build("-tnone", *options, **popen)
