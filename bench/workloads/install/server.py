"""A server of components: small tar files with a tool in each, a manifest of checksums, and faults."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.workloads.loopback import Loopback, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = "/files/"
ABOUT_BYTES = 40_000


@dataclass(frozen=True)
class Component:
    """What can be installed: an archive with `bin/NAME`, and data."""

    name: str
    version: str
    archive: bytes

    @property
    def file(self) -> str:
        """The name of its archive."""
        return f"{self.name}-{self.version}.tar"

    @property
    def listed(self) -> dict[str, object]:
        """Its line in the manifest."""
        digest = hashlib.sha256(self.archive).hexdigest()
        about = {"name": self.name, "version": self.version, "sha256": digest}
        return {**about, "url": FILES + self.file, "size": len(self.archive)}


def component(name: str, version: str = "1.0") -> Component:
    """A component whose tool prints its name and version."""
    rest = random.Random(f"{name} {version}").randbytes(ABOUT_BYTES)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        tool = f"#!/bin/sh\necho {name} {version}\n".encode()
        for path, mode, data in ((f"bin/{name}", 0o755, tool), (f"lib/{name}.bin", 0o644, rest)):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), mode
            archive.addfile(info, io.BytesIO(data))
    return Component(name, version, buffer.getvalue())


def components(count: int, version: str = "1.0") -> list[Component]:
    """So many of them."""
    return [component(f"tool-{number:02}", version) for number in range(count)]


class Files(Loopback):
    """Serves `components`, and does wrong what it is told to.

    Attributes:
        first: What the first requests for a file are answered with, instead; by the component's name.
        always: Likewise all requests.
        window_s, budget: With a budget at most so many files are served in each such window; it says how many
            are left, and answers 429 beyond.
        chunk_s, slow: What passes after each 16th of a file; and of those that are slower, by their names.
    """

    together_below = FILES

    def __init__(self, components: list[Component]) -> None:
        super().__init__()
        self.first: dict[str, list[Response]] = {}
        self.always: dict[str, Response] = {}
        self.budget: int | None = None
        self.window_s = 1.0
        self.chunk_s = 0.0
        self.slow: dict[str, float] = {}
        self.served: Counter[int] = Counter()
        self._components = {one.file: one for one in components}
        self._lock = threading.Lock()

    def answer(self, path: str, _headers: Mapping[str, str]) -> Response:
        """See `Loopback`."""
        if path == "/manifest.json":
            listed = [one.listed for one in self._components.values()]
            return Response(body=json.dumps(listed).encode())
        one = self._components.get(path.removeprefix(FILES))
        if one is None:
            return Response(404)
        if one.name in self.always:
            return self.always[one.name]
        with self._lock:
            if self.first.get(one.name):
                return self.first[one.name].pop(0)
        limits = self._limits()
        if limits.get("X-RateLimit-Remaining") == "-1":
            return Response(429, headers={"Retry-After": "1"})
        return Response(body=one.archive, headers=limits, chunk_s=self.slow.get(one.name, self.chunk_s))

    def _limits(self) -> dict[str, str]:
        """The headers that say what is left of the budget, in the words of GitHub's API."""
        if self.budget is None:
            return {}
        with self._lock:
            window = int(time.time() / self.window_s)
            self.served[window] += 1
            left = max(-1, self.budget - self.served[window])
        reset = (window + 1) * self.window_s
        return {"X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": str(int(reset))}

    def corrupted(self, name: str) -> Response:
        """The archive of `name`, with one byte that is another one."""
        found = next(one for one in self._components.values() if one.name == name)
        data = bytearray(found.archive)
        data[len(data) // 2] ^= 1
        return Response(body=bytes(data))
