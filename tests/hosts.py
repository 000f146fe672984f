"""A user of a machine with all that can be set there, to resolve settings with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buildslots.settings import compiled, resolve
from buildslots.settings.address import Address

if TYPE_CHECKING:
    from pathlib import Path

    from buildslots.settings import Settings


class Host:
    """A user's settings on one machine.

    Attributes:
        home: Their home, in which they work.
        config: Their config file.
        system: The machine's.
        project: That of the project in which they work.
        environ: Their environment.
        said: What is wrong.
    """

    def __init__(self, where: Path) -> None:
        self.home = where / "user"
        self.config = self.home / ".config/buildslots/config.toml"
        self.config.parent.mkdir(parents=True)
        self.system = where / "system.toml"
        self.project = self.home / ".buildslots.toml"
        self.environ = {"HOME": str(self.home), "MAX_CONCURRENT_BUILDS": "3"}
        self.said: list[str] = []

    def resolve(self, **options: Any) -> Settings:
        """The settings; `said` has what is wrong with these, and nothing from before."""
        compiled._reported.clear()
        self.said.clear()
        return resolve(environ=self.environ, warn=self.said.append, **options)

    def address(self, **options: Any) -> Address:
        """The address of a pool that is on a server."""
        found = self.resolve(**options).address
        assert isinstance(found, Address)
        return found
