"""The tools that are looked for: how each says its version, and where its latest one is published."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

REGISTRIES = ("pypi", "npm", "crates", "github", "homebrew")
NAMES = tuple(
    """
bash git make gcc g++ cc ld as ar nm objdump strip readelf tar gzip bzip2 xz zstd sed gawk mawk grep find
xargs diff patch curl wget jq rsync file strace gdb cmake ninja node cargo rustc bc dpkg sqlite3 gpg cmp sort
ls cp mv cat head tail cut tr uniq wc date env nice nohup timeout stat df du dd od sha256sum md5sum base64
flock mount ps top free pgrep vmstat watch pkg-config gettext msgfmt iconv locale getent perl python3 vim
nano less ruby m4 autoconf flex bison rg fd bat htop ltrace lsblk nsenter unshare parallel just hyperfine
ssh openssl tmux go unzip
""".split()  # noqa: SIM905 - a list of 110 strings is 110 lines
)
OTHER_WAYS = {"ssh": "-V", "openssl": "version", "tmux": "-V", "go": "version", "unzip": "-v"}
"""What those are called with that do not know --version."""
VERSION = re.compile(r"\d+(?:\.\d+)+[a-z]?\d*")


@dataclass(frozen=True)
class Tool:
    """A program that was found.

    Attributes:
        path: Where.
        registry, package: Where its latest version is published, and under what name.
    """

    name: str
    path: str
    registry: str
    package: str

    @property
    def command(self) -> list[str]:
        """What prints its version."""
        return [self.path, OTHER_WAYS.get(self.name, "--version")]


def find(most: int, more: tuple[str, ...] = ()) -> list[Tool]:
    """At most so many of the tools on PATH, and those of `more` besides."""
    found = []
    for number, name in enumerate([*more, *NAMES]):
        path = shutil.which(name)
        if path is not None:
            found.append(Tool(name, path, REGISTRIES[number % len(REGISTRIES)], name.replace("+", "p")))
    return found[: most + len(more)]


def version_in(text: str) -> str | None:
    """The first version in what a tool has printed."""
    found = VERSION.search(text)
    return found[0] if found else None
