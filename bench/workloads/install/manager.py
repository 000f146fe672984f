"""A toolchain manager on a batch: `python -m bench.workloads.install.manager --url URL --dest DIR [-j N]`.

Every component is downloaded into a stage, verified and unpacked there, and moved to DIR/components only when
all of them are whole. Then the links in DIR/bin are made to lead to them. A failure leaves all as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import tarfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from bench.workloads.install.display import display
from bench.workloads.install.tokens import find_token
from buildslots import Batch, current_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots import Report, TaskRun

AT_ONCE = 4
POOL = "downloads"
ARCHIVE = ".archive"
MARGIN_S = 0.05
"""How much later than at the server's own time its budget is taken for renewed."""
HTTP_S = 30.0


class TransientError(Exception):
    """The server may answer better if it is asked again."""


class ChecksumError(Exception):
    """What was downloaded is something else."""


@dataclass(frozen=True)
class Wanted:
    """A component of the manifest."""

    name: str
    version: str
    url: str
    sha256: str
    size: int

    @property
    def directory(self) -> str:
        """Its name below `components`."""
        return f"{self.name}-{self.version}"


class Manager:
    """Installs what the manifest at `url` lists into `dest`.

    Args:
        at_once: Downloads at once.
        token: For the server.
        on_change: Told of each task whose state has changed.

    Attributes:
        received: Bytes of each component, by its name, for whoever draws progress.
        wanted: The components of the manifest, by their names.
    """

    def __init__(
        self,
        url: str,
        dest: Path,
        *,
        at_once: int = AT_ONCE,
        token: str | None = None,
        on_change: Callable[[TaskRun], object] | None = None,
    ) -> None:
        self.received: dict[str, int] = {}
        self.wanted: dict[str, Wanted] = {}
        self._url = url
        self._dest = dest
        self._at_once = at_once
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._on_change = on_change

    async def install(self) -> Report:
        """Install all, or nothing."""
        # One client: its pool of connections is as large as there may be downloads.
        limits = httpx.Limits(max_connections=self._at_once)
        async with httpx.AsyncClient(
            base_url=self._url, headers=self._headers, limits=limits, timeout=HTTP_S, trust_env=False
        ) as self._client:
            listed = (await self._client.get("/manifest.json")).raise_for_status().json()
            self.wanted = {one["name"]: Wanted(**one) for one in listed}
            batch = Batch(
                name="install",
                jobs=self._at_once,
                fail="now",
                all_or_nothing=True,
                on_change=self._on_change,
            )
            async with batch:
                for one in self.wanted.values():
                    batch.add(
                        self.fetch,
                        one,
                        name=one.name,
                        pool=POOL,
                        stage=self.home(one),
                        verify=self.verify,
                        unless=self.is_there,
                        retries=1,
                        retry_on=[TransientError, ChecksumError, httpx.TransportError],
                    )
        assert batch.report is not None
        if batch.report.is_good:
            self.activate()
        return batch.report

    def home(self, one: Wanted) -> Path:
        """Where `one` belongs."""
        return self._dest / "components" / one.directory

    async def is_there(self, one: Wanted) -> bool:
        """Whether that version is installed."""
        return self.home(one).is_dir()

    async def fetch(self, one: Wanted) -> None:
        """Download `one` into its stage."""
        stage = current_task().stage
        assert stage is not None
        self.received[one.name] = 0
        async with self._client.stream("GET", one.url) as response:
            self._heed(response)
            response.raise_for_status()
            with open(os.path.join(stage, ARCHIVE), "wb") as file:  # noqa: ASYNC230 - of a disk that is faster than the net
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
                    self.received[one.name] += len(chunk)

    async def verify(self, one: Wanted) -> None:
        """Compare the checksum of what was downloaded, and only then unpack it."""
        stage = current_task().stage
        assert stage is not None
        # A batch leaves the thread of a cancelled function to itself. This one is waited for: where its stage
        # was, it would unpack the rest.
        await anyio.to_thread.run_sync(self.unpack, one, stage)

    def unpack(self, one: Wanted, stage: str) -> None:
        """`verify`, in a thread."""
        archive = os.path.join(stage, ARCHIVE)
        with open(archive, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != one.sha256:
            raise ChecksumError(f"{one.name} has the checksum {found[:12]}…, and not {one.sha256[:12]}…")
        with tarfile.open(archive) as tar:
            tar.extractall(stage, filter="data")
        os.unlink(archive)

    def activate(self) -> None:
        """Let the links in `bin` lead to what is installed; each is old or new at any moment."""
        links = self._dest / "bin"
        links.mkdir(exist_ok=True)
        for one in self.wanted.values():
            new = links / f".{one.name}.new"
            new.unlink(missing_ok=True)
            new.symlink_to(Path("..", "components", one.directory, "bin", one.name))
            new.replace(links / one.name)

    def _heed(self, response: httpx.Response) -> None:
        """Rest if the server has asked for it, or will refuse the next requests."""
        headers = response.headers
        after = headers.get("Retry-After", "")
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self.rest(float(after) if after.isdecimal() else 60.0)
            raise TransientError(f"the server has asked for a rest of {after or 60} s")
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise TransientError(f"status {response.status_code}")
        left, reset = headers.get("X-RateLimit-Remaining", ""), headers.get("X-RateLimit-Reset", "")
        # As many requests as there are jobs may be on their way, and the server will count them too.
        if left.isdecimal() and reset and int(left) < self._at_once:
            self.rest(max(0.0, float(reset) - time.time()) + MARGIN_S)

    def rest(self, seconds: float) -> None:
        """Let no download start for so long."""
        current_task().pause_all(seconds)


def at_once(option: int | None, config: str | None) -> int:
    """How many downloads at once: the option, then `[downloads] max_concurrent` in `config`, then 4."""
    if option is not None or config is None:
        return AT_ONCE if option is None else option
    with open(config, "rb") as file:
        table: dict[str, Any] = tomllib.load(file).get("downloads", {})
    return int(table.get("max_concurrent", AT_ONCE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--dest", type=Path, required=True)
    parser.add_argument("--config", help="file with [downloads] max_concurrent")
    parser.add_argument("-j", "--jobs", type=int)
    options = parser.parse_args()
    token = find_token(lambda text: print(f"warning: {text}", file=sys.stderr))
    with display() as shown:
        manager = Manager(
            options.url,
            options.dest,
            at_once=at_once(options.jobs, options.config),
            token=token,
            on_change=shown.changed,
        )
        shown.begin(manager)
        try:
            report = asyncio.run(manager.install())
        except KeyboardInterrupt:
            shown.say("interrupted: nothing was changed")
            return 130
        shown.end(report)
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
