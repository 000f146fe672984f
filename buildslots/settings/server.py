"""Settings of a pool that is on a server: where it is, and what a build is to do about that server.

Loaded only where a URL says that a pool is on one. A password is its user's on one server, and goes to no
other one: what a file says besides a URL holds for the server of that URL alone.
"""

from __future__ import annotations

import os

from buildslots.errors import SettingError
from buildslots.settings.address import parse_url
from buildslots.settings.options import from_environ
from buildslots.settings.places import home_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from buildslots.settings.address import Address
    from buildslots.settings.config import Config, Said

NOT_ENCRYPTED = (
    "would be spoken to in plain text, by way of a network: write rediss://, or plaintext = true in "
    "[pools.{}] of your config file"
)


def on_server(  # noqa: PLR0913, PLR0917 - all that `resolve` knows
    url: Said | None,
    pool: str,
    directory: str,
    environ: Mapping[str, str],
    configs: list[Config],
    warn: Callable[[str], None],
) -> dict[str, Said]:
    """Find out where the pool is, and all that is said of its server.

    Args:
        url: The `Address` that an option or BUILD_SLOTS_POOL names, and which of the two; or None. Then
            BUILD_SLOTS_URL counts if it is that of a pool of this name, and then the files.
        pool: The name of the pool.
        directory: That of this machine's own pool of this name.
        environ: The environment.
        configs: What the config files say, the user's first.
        warn: Is told in one line what is wrong with what a variable or a file says; the next one counts.

    Returns:
        What is said, by key: "url" is the `Address`. Nothing if the pool is one of this machine.

    Raises:
        SettingError: An option names what cannot be used.
    """
    for address, source in _named(url, pool, environ, configs, warn):
        plaintext = _beside("plaintext", pool, address, configs, (False, "default"))
        if not (plaintext[0] or address.is_encrypted_or_near):
            said_by = "pool" if source == "option" else source
            error = SettingError(said_by, address, NOT_ENCRYPTED.format(pool))
            if source == "option":
                raise error
            warn(f"{error}; ignored")
            continue
        said = {
            "on_unreachable": _filed("on_unreachable", pool, configs, ("local", "default")),
            "also_local": _filed("also_local", pool, configs, (False, "default")),
            "password_file": _beside("password_file", pool, address, configs, (None, "default")),
        }
        how = {key: value for key, (value, _) in said.items()}
        if how["password_file"] is not None:
            how["password_file"] = _expanded(how["password_file"], environ)
        said["password_file"] = how["password_file"], said["password_file"][1]
        place = address.having(**how, directory=directory)
        return {**said, "plaintext": plaintext, "url": (place, source)}
    return {}


def _named(
    url: Said | None,
    pool: str,
    environ: Mapping[str, str],
    configs: list[Config],
    warn: Callable[[str], None],
) -> Iterator[tuple[Address, str]]:
    """The addresses that somebody has named, and who; what counts comes first."""
    if url is not None:
        yield url
        return
    of_variable = from_environ(environ, "BUILD_SLOTS_URL", parse_url, warn)
    if of_variable is not None and of_variable[0].name == pool:
        yield of_variable
    yield from (found for config in configs if (found := _url_in(config, pool)))


def _url_in(config: Config, pool: str) -> tuple[Address, str] | None:
    """Where a file says that the pool is, which was read as a URL when the file was."""
    said = config.said.get(("url", pool))
    return None if said is None else (parse_url(*said), said[1])


def _filed(key: str, pool: str, configs: list[Config], default: Said) -> Said:
    return next((said for config in configs if (said := config.get(key, pool))), default)


def _beside(key: str, pool: str, address: Address, configs: list[Config], default: Said) -> Said:
    """The same of a key that holds for one server: a file with another one's URL says nothing of it."""
    of_it = []
    for config in configs:
        its_url = _url_in(config, pool)
        if its_url is None or its_url[0].server == address.server:
            of_it.append(config)
    return _filed(key, pool, of_it, default)


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    """The path of a file, in which ~ stands for the user's home. Raises OSError: there is none."""
    return os.path.join(home_dir(environ), path[2:]) if path.startswith("~/") else path
