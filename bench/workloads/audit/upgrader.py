"""Upgrades of packages, each in its environment: a backup first; if the new one fails, that is put back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

import anyio

from bench.workloads.audit.wheels import QUIETLY, installed, module_of, pip_command
from buildslots import Batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildslots import Report, TaskRun

POOL = "installs"


class RefusedError(Exception):
    """The policy does not allow this upgrade."""


class BackupError(Exception):
    """A backup is not what was backed up."""


class Upgrader:
    """Upgrades environments below `root`.

    Args:
        store: Where the wheels are.
        backups: Where backups are kept.
        policy: Up to where a version may rise: "patch", "minor", "major"; or "ask": a major one if `ask` says
            so, which is called with the package and both versions.
        on_change: Told of each task whose state has changed.
    """

    def __init__(  # noqa: PLR0913 - the last two are for whoever asks and shows
        self,
        root: Path,
        store: Path,
        backups: Path,
        *,
        policy: str,
        ask: Callable[[str, str, str], bool] | None = None,
        on_change: Callable[[TaskRun], object] | None = None,
    ) -> None:
        self._root = root
        self._store = store
        self._backups = backups
        self._policy = policy
        self._ask = ask
        self._on_change = on_change

    async def upgrade(self, wanted: dict[str, str]) -> Report:
        """Bring the packages to the versions `wanted`; one that fails keeps no other from its own."""
        batch = Batch(name="upgrade", jobs=4, fail="never", on_change=self._on_change)
        async with batch:
            for name, version in wanted.items():
                about = {"pool": POOL, "serial": str(self._root / name)}
                batch.add(self.back_up, name, version, name=f"back up {name}", verify=self.is_whole, **about)
                needs = [f"back up {name}"]
                batch.add(self.install, name, version, name=f"upgrade {name}", needs=needs, **about)
        assert batch.report is not None
        return batch.report

    def back_up(self, name: str, version: str) -> None:
        """Keep the environment of `name`, and its checksum; raises RefusedError before anything is done."""
        self._allow(name, installed(self._root / name)[name], version)
        self._backups.mkdir(exist_ok=True)
        archive = self.backup_of(name)
        with tarfile.open(archive, "w") as tar:
            tar.add(self._root / name, arcname=name)
        with open(f"{archive}.json", "w", encoding="utf-8") as file:
            json.dump({"name": name, "sha256": _digest(archive)}, file)

    def is_whole(self, name: str, _version: str) -> None:
        """Read the backup again: raises BackupError if it is not what was written."""
        archive = self.backup_of(name)
        with open(f"{archive}.json", encoding="utf-8") as file:
            wanted = json.load(file)["sha256"]
        if _digest(archive) != wanted:
            raise BackupError(f"{archive} has another checksum than {wanted[:12]}…")

    async def install(self, name: str, version: str) -> None:
        """Install the new version and check it; whatever goes wrong, the backup is put back."""
        environment = self._root / name
        links = ("--no-index", "--no-deps", "--find-links", str(self._store))
        try:
            await self._run(*pip_command(environment, "install", *links, f"{name}=={version}"))
            await self._run(str(environment / "bin" / "python"), "-c", f"import {module_of(name)}")
        except BaseException:
            # Also if the batch is ended: half an upgrade is worse than none.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.put_back, name)
            raise

    def put_back(self, name: str) -> None:
        """Let the environment be what its backup has; at the end by two renames."""
        self.is_whole(name, "")
        environment, fresh = self._root / name, self._root / f".{name}.back"
        shutil.rmtree(fresh, ignore_errors=True)
        with tarfile.open(self.backup_of(name)) as tar:
            tar.extractall(fresh, filter="fully_trusted")  # its own links lead out of it
        os.rename(environment, fresh / "failed")
        os.rename(fresh / name, environment)
        shutil.rmtree(fresh)

    def backup_of(self, name: str) -> str:
        """The path of its backup."""
        return os.path.join(self._backups, f"{name}.tar")

    def _allow(self, name: str, old: str, new: str) -> None:
        """Raise RefusedError unless the policy allows to go from `old` to `new`."""
        before, after = old.split("."), new.split(".")
        if before[0] != after[0]:
            allowed = self._policy == "major" or (
                self._policy == "ask" and self._ask is not None and self._ask(name, old, new)
            )
        else:
            allowed = self._policy != "patch" or before[1] == after[1]
        if not allowed:
            raise RefusedError(f"{name} {old} to {new}: the policy is {self._policy!r}")

    @staticmethod
    async def _run(*command: str) -> None:
        """Run a command to its end. Raises CalledProcessError."""
        await anyio.run_process(command, env={**os.environ, **QUIETLY})


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
