"""The audit itself, as one batch: a command for each tool, and a request for each of their packages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx

from bench.workloads.audit import snapshot
from bench.workloads.audit.registries import latest_in, path_of
from bench.workloads.audit.tools import version_in
from buildslots import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.workloads.audit.tools import Tool
    from buildslots import Outcome, Report, TaskRun

AT_ONCE = 16
EACH_S = 3


class BusyError(Exception):
    """The registry may answer better if it is asked again."""


class Auditor:
    """Audits `tools`, and keeps what it finds in the file `kept`.

    Args:
        url: Of the registries; None for offline.
        kept: The snapshot; what it knows is the fallback.
        on_change: Told of each task whose state has changed.
    """

    def __init__(
        self,
        tools: list[Tool],
        kept: str,
        url: str | None,
        *,
        at_once: int = AT_ONCE,
        on_change: Callable[[TaskRun], object] | None = None,
    ) -> None:
        self._tools = tools
        self._kept = kept
        self._url = url
        self._at_once = at_once
        self._on_change = on_change
        self._versions: dict[str, str | None] = {}
        self._latest: dict[str, str] = {}

    async def audit(self) -> Report:
        """Audit all, and write the snapshot."""
        limits = httpx.Limits(max_connections=self._at_once)
        # No timeout here: the time limit of the task is one for all that it does.
        options: dict[str, Any] = {"limits": limits, "timeout": None, "trust_env": False}
        async with httpx.AsyncClient(base_url=self._url or "", **options) as self._client:
            batch = Batch(name="audit", jobs=self._at_once, fail="never", on_change=self._on_change)
            async with batch:
                every: dict[str, Any] = {"pool": "", "time_limit": EACH_S}
                for tool in self._tools:
                    batch.add(tool.command, name=f"version {tool.name}", **every)
                for tool in self._tools if self._url else ():
                    batch.add(
                        self.ask,
                        tool,
                        name=f"latest {tool.name}",
                        retries=2,
                        backoff="200ms",
                        retry_on=[BusyError, httpx.TransportError],
                        **every,
                    )
                async for outcome in batch:
                    self._take(outcome)
        assert batch.report is not None
        self._write()
        return batch.report

    async def ask(self, tool: Tool) -> str:
        """The latest version of `tool`, of its registry."""
        response = await self._client.get(path_of(tool.registry, tool.package))
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise BusyError(f"status {response.status_code}")
        return latest_in(tool.registry, response.raise_for_status().json())

    def _take(self, outcome: Outcome) -> None:
        what, _, name = outcome.name.partition(" ")
        if what == "latest" and outcome.is_good:
            self._latest[name] = outcome.value
        if what == "version":
            self._versions[name] = None
            if outcome.is_good and outcome.log is not None:
                with open(outcome.log, encoding="utf-8", errors="replace") as file:
                    self._versions[name] = version_in(file.read())

    def _write(self) -> None:
        """What was found now; else what the snapshot knows; else that it is unknown."""
        before = snapshot.read(self._kept)
        entries = {}
        for tool in self._tools:
            old = before.get(tool.name, {})
            latest, source, asked = self._latest.get(tool.name), "registry", time.time()
            if latest is None and old.get("latest"):
                latest, source, asked = old["latest"], "cached", old["asked"]
            elif latest is None:
                source, asked = "unknown", 0.0
            version = self._versions[tool.name]
            about = {"version": version, "latest": latest, "source": source, "asked": asked}
            entries[tool.name] = {**about, "path": tool.path}
        snapshot.write(self._kept, entries)
