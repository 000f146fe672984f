"""Where things are: the directories of pools, cache, state and settings.

On Linux by the XDG rule, in a few lines of our own: platformdirs, which is asked elsewhere, would cost every
build 20 ms.
"""

from __future__ import annotations

import errno
import os
import sys

from buildslots.settings.values import DEFAULT_POOL

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def pool_dir(pool: str, base: str) -> str:
    """Return the absolute directory of a pool: `base` itself, or `base/pools/NAME` for a named pool.

    Raises:
        OSError: `base` is relative and the working directory is gone.
    """
    base = os.path.abspath(base)
    return base if pool == DEFAULT_POOL else os.path.join(base, "pools", pool)


def base_dir(environ: Mapping[str, str]) -> str:
    """Return the directory of the default pool that an environment leads to.

    BUILD_SLOTS_DIR if it is an absolute path. Another one is ignored, as `values.parse_dir` says: it would be
    a pool of its own in every working directory, where nothing is throttled.

    Raises:
        OSError: There is no home directory to put it in.
    """
    path = environ.get("BUILD_SLOTS_DIR", "")
    return path if os.path.isabs(path) else os.path.join(cache_dir(environ), ".build-slots")


def cache_dir(environ: Mapping[str, str]) -> str:
    """Return the user's cache directory.

    On Linux `$XDG_CACHE_HOME`, or `~/.cache`, as platformdirs has it; elsewhere platformdirs says.

    Raises:
        OSError: There is no home directory to put it in.
    """
    if sys.platform == "linux":
        return _xdg_dir(environ, "XDG_CACHE_HOME", ".cache")
    import platformdirs  # noqa: PLC0415 - 20 ms

    try:
        return platformdirs.user_cache_dir()
    except RuntimeError as error:
        raise _no_home() from error


def kept_dir(environ: Mapping[str, str]) -> str:
    """Return this program's directory of what it keeps only to be faster: what the config file says.

    Raises:
        OSError: There is no home directory to put it in.
    """
    return os.path.join(cache_dir(environ), "buildslots")


def state_dir(environ: Mapping[str, str]) -> str:
    """Return this program's directory of what is to outlast a reboot and is no setting: the journal.

    On Linux `$XDG_STATE_HOME/buildslots`, or `~/.local/state/buildslots`; elsewhere platformdirs says.

    Raises:
        OSError: There is no home directory to put it in.
    """
    return _own_dir(environ, "XDG_STATE_HOME", ".local/state", "user_state_dir")


def shims_dir(environ: Mapping[str, str]) -> str:
    """Return the directory of the shims, which people have on their PATH: it never moves.

    On Linux `$XDG_DATA_HOME/buildslots/shims`, or `~/.local/share/buildslots/shims`; elsewhere platformdirs
    says.

    Raises:
        OSError: There is no home directory to put it in.
    """
    return os.path.join(_own_dir(environ, "XDG_DATA_HOME", ".local/share", "user_data_dir"), "shims")


PROJECT = ".buildslots.toml"
"""What a project's file with settings is called."""

LEVELS = 32
"""In so many directories a project's file is looked for."""


def project_path(environ: Mapping[str, str]) -> str | None:
    """Return the path of the project's file: in the working directory, or in the nearest one above it.

    Not above the user's home, the top of a git repository, or a mount point.
    """
    try:
        directory = os.getcwd()
        here = os.stat(directory)
        home = os.stat(_home(environ))
        device = here.st_dev
        for _ in range(LEVELS):
            path = os.path.join(directory, PROJECT)
            if os.access(path, os.F_OK):
                return path
            is_top = os.path.samestat(here, home) or os.access(os.path.join(directory, ".git"), os.F_OK)
            above = os.path.dirname(directory)
            here = os.stat(above)
            if is_top or above == directory or here.st_dev != device:
                return None
            directory = above
    except (OSError, ValueError):
        pass  # a directory has been removed meanwhile; or there is no home
    return None


def config_paths(environ: Mapping[str, str]) -> list[str]:
    """Return the paths of those config files that there are, the user's first."""
    return [path for find in (config_path, system_config_path) if (path := _existing(find, environ))]


def _existing(find: Callable[[Mapping[str, str]], str], environ: Mapping[str, str]) -> str | None:
    try:
        path = find(environ)
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None  # or there is no home
    except (OSError, ValueError):
        pass  # the reader says what is wrong with it
    return path


def system_config_path(_environ: Mapping[str, str]) -> str:
    """Return the path of the machine's config file, which its administrator writes. It need not exist.

    `/etc/buildslots/config.toml` on Linux; elsewhere platformdirs says.
    """
    if sys.platform == "linux":
        return "/etc/buildslots/config.toml"
    import platformdirs  # noqa: PLC0415 - 20 ms

    return os.path.join(platformdirs.site_config_dir("buildslots", appauthor=False), "config.toml")


def config_path(environ: Mapping[str, str]) -> str:
    """Return the path of the user's config file, which need not exist.

    On Linux in `$XDG_CONFIG_HOME/buildslots`, or `~/.config/buildslots`; elsewhere platformdirs says.

    Raises:
        OSError: There is no home directory to look in.
    """
    return os.path.join(_own_dir(environ, "XDG_CONFIG_HOME", ".config", "user_config_dir"), "config.toml")


def _own_dir(environ: Mapping[str, str], variable: str, below_home: str, elsewhere: str) -> str:
    """Return this program's directory of one kind: by the XDG rule on Linux, else by that of platformdirs.

    Raises:
        OSError: There is no home directory.
    """
    if sys.platform == "linux":
        return os.path.join(_xdg_dir(environ, variable, below_home), "buildslots")
    import platformdirs  # noqa: PLC0415 - 20 ms

    try:
        return str(getattr(platformdirs, elsewhere)("buildslots", appauthor=False))
    except RuntimeError as error:
        raise _no_home() from error


def _xdg_dir(environ: Mapping[str, str], name: str, below_home: str) -> str:
    """Apply the XDG rule: the variable if it is an absolute path, and anything else in it is to be ignored.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    directory = environ.get(name, "")
    return directory if os.path.isabs(directory) else os.path.join(_home(environ), below_home)


def home_dir(environ: Mapping[str, str]) -> str:
    """Return the user's home directory. Raises OSError where there is none."""
    return _home(environ)


def _home(environ: Mapping[str, str]) -> str:
    """Return the home directory: `$HOME`, or what the user database says.

    Not `os.path.expanduser`: it takes an empty or relative $HOME for good, reads the process's own
    environment, and returns "~" where nobody knows, which would become a directory of that name.
    """
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            import pwd  # noqa: PLC0415 - seldom needed, and absent on Windows

            home = pwd.getpwuid(os.getuid()).pw_dir  # type: ignore[attr-defined, unused-ignore]
        except (ImportError, KeyError):
            raise _no_home() from None
        if not os.path.isabs(home):
            raise _no_home()
    return home.rstrip("/") or "/"


def _no_home() -> OSError:
    return OSError(errno.ENOENT, "no home directory: set HOME or BUILD_SLOTS_DIR")
