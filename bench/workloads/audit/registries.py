"""The shapes of five registries, as a server on loopback speaks them, and as the auditor reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.workloads.loopback import Loopback, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

PATHS = {
    "pypi": "/pypi/{}/json",
    "npm": "/npm/{}",
    "crates": "/api/v1/crates/{}",
    "github": "/repos/tools/{}/releases/latest",
    "homebrew": "/api/formula/{}.json",
}
"""Where each has a package: https://docs.pypi.org/api/json/, https://github.com/npm/registry,
https://crates.io/data-access, https://docs.github.com/rest/releases, https://formulae.brew.sh/docs/api/."""


def path_of(registry: str, package: str) -> str:
    """Where `registry` tells of `package`."""
    return PATHS[registry].format(package)


def shape(registry: str, package: str, version: str) -> dict[str, Any]:
    """What `registry` says of `package`."""
    if registry == "pypi":
        return {"info": {"name": package, "version": version}, "releases": {version: []}}
    if registry == "npm":
        return {"name": package, "dist-tags": {"latest": version}, "versions": {version: {}}}
    if registry == "crates":
        return {"crate": {"id": package, "max_stable_version": version, "newest_version": f"{version}-rc1"}}
    if registry == "github":
        return {"tag_name": f"v{version}", "draft": False, "prerelease": False}
    return {"name": package, "versions": {"stable": version, "head": "HEAD"}}


def latest_in(registry: str, told: Any) -> str:
    """The latest version in what `registry` says. Raises KeyError, TypeError: it is not in there."""
    if registry == "pypi":
        return str(told["info"]["version"])
    if registry == "npm":
        return str(told["dist-tags"]["latest"])
    if registry == "crates":
        return str(told["crate"]["max_stable_version"])
    if registry == "github":
        return str(told["tag_name"]).removeprefix("v")
    return str(told["versions"]["stable"])


class Registries(Loopback):
    """All five; every package's latest version is `version`, but for what is told otherwise.

    Attributes:
        first: What the first requests for a package are answered with, instead; by its name.
        always: Likewise all requests.
        for_all: Likewise all requests for all.
    """

    def __init__(self, version: str = "99.1") -> None:
        super().__init__()
        self.version = version
        self.first: dict[str, list[Response]] = {}
        self.always: dict[str, Response] = {}
        self.for_all: Response | None = None

    def answer(self, path: str, _headers: Mapping[str, str]) -> Response:
        """See `Loopback`."""
        for registry, pattern in PATHS.items():
            before, after = pattern.split("{}")
            if path.startswith(before) and path.endswith(after):
                return self._of(registry, path[len(before) : len(path) - len(after)])
        return Response(404)

    def _of(self, registry: str, package: str) -> Response:
        if self.for_all is not None:
            return self.for_all
        if self.first.get(package):
            return self.first[package].pop(0)
        if package in self.always:
            return self.always[package]
        return Response(body=json.dumps(shape(registry, package, self.version)).encode())
