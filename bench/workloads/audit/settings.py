"""Settings of a project, of a user, of a system: what is said nearer to the work counts more, key by key."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "tools.toml"
DEFAULTS: dict[str, Any] = {"at_once": 16, "policy": "minor", "offline": False, "registry": None}
POLICIES = ("patch", "minor", "ask", "major")


class SettingsError(ValueError):
    """A file has a setting that cannot be; names the file and the key."""


@dataclass(frozen=True)
class Settings:
    """What counts, and who has said so.

    Attributes:
        sources: Of each key "project", "user", "system" or "default".
    """

    at_once: int
    policy: str
    offline: bool
    registry: str | None
    sources: dict[str, str]


def load(work: Path, user: Path, system: Path) -> Settings:
    """The settings for who works in the directory `work`.

    Args:
        work: In it, or the nearest directory above, is the project's file.
        user: The directory of the user's file.
        system: Likewise the system's.

    Raises:
        SettingsError: A file cannot be read, or has a setting that cannot be.
    """
    project = next((path for path in (work, *work.parents) if (path / FILE).is_file()), None)
    values, sources = dict(DEFAULTS), dict.fromkeys(DEFAULTS, "default")
    for source, directory in (("system", system), ("user", user), ("project", project)):
        for key, value in _read(directory).items():
            values[key], sources[key] = value, source
    return Settings(**values, sources=sources)


def _read(directory: Path | None) -> dict[str, Any]:
    if directory is None or not (directory / FILE).exists():
        return {}
    path = os.path.join(directory, FILE)
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    for key, value in found.items():
        if key not in DEFAULTS:
            raise SettingsError(f"{path}: there is no setting {key}")
        if key == "policy" and value not in POLICIES:
            raise SettingsError(f"{path}: policy = {value!r} is none of {', '.join(POLICIES)}")
        if key == "at_once" and (type(value) is not int or value < 1):
            raise SettingsError(f"{path}: at_once = {value!r} is not a number of tasks")
    return found
