"""A file with settings, read once: what it says is kept as plain text, so that the next build parses no TOML.

To parse TOML, and to find the lines for messages, takes longer than Python's own start. What was kept is in a
private file in the user's cache directory: a line for each value, which goes through the same checks as one
in the file with settings. It counts only if

- nobody else can have written it: the file and its directory belong to this user, and only this user may
  write them;
- it was made of this file, by path, device, inode, size and times, and by this code;
- it is whole.

Otherwise the file with settings is read. No failure here is spoken of, and none stops a build: at worst every
build reads the file.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from buildslots.files import PLAIN, make_directory, make_parents
from buildslots.settings.config import KEYS, Config
from buildslots.settings.places import kept_dir
from buildslots.settings.values import parse_pool

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOST_KEPT = 509
"""So many files there are at most, a prime. Each installation has its own for each file with settings,
because it believes only what its own code has made. Two may share one: then each undoes what the other kept,
and reads its file again."""

TICK_NS = 2 * 10**9
"""The longest tick of a file system's clock, FAT's. A file that has just been changed may change again within
the same tick: its times and size stay the same, and nobody sees it (https://git-scm.com/docs/racy-git)."""

CODE = ("address.py", "compiled.py", "config.py", "file.py", "lines.py", "options.py", "values.py")
"""The files of this code: what they make of a file with settings may be another thing when they change."""

# What can go wrong with a file that is not what we have written.
_FAILURES = (OSError, ValueError, LookupError)

# The largest prime below 2^61. A remainder notices what a power cut leaves: an end that is missing, or zeros.
_MODULUS = 2**61 - 1

# The lines about files with settings that this process has said; a server that builds all day says each once.
_reported: set[str] = set()


def load(
    path: str, environ: Mapping[str, str], warn: Callable[[str], None], *, of_project: bool = False
) -> Config:
    """Return what the file at `path` says; `warn` is told in a line each what is wrong with it.

    With `of_project` only what a project may say counts, and only if it is ours or root's alone to write.
    """
    directory = _directory(environ)
    found = _kept(directory, path) if directory else None
    config, lines = found or _read(directory, path, of_project=of_project)
    for line in lines:
        if line not in _reported:
            _reported.add(line)
            warn(line)
    return config


def _read(directory: str | None, path: str, *, of_project: bool) -> tuple[Config, list[str]]:
    """Read the file, and keep what it says if it can be kept."""
    from buildslots.settings import file  # noqa: PLC0415 - the reader of TOML: this module is there to avoid it

    now = time.time_ns()
    config, lines, facts = file.read(path, of_project=of_project)
    if directory and facts and now - max(facts.st_mtime_ns, facts.st_ctime_ns) >= TICK_NS:
        try:
            _keep(directory, name(path), packed(path, facts, config, lines))
        except _FAILURES:
            pass
    return config, lines


def _directory(environ: Mapping[str, str]) -> str | None:
    """The directory to keep it in; None where it cannot be told whose a file is, or there is no home."""
    if not hasattr(os, "geteuid"):
        return None
    try:
        return kept_dir(environ)
    except OSError:
        return None


def packed(path: str, facts: os.stat_result, config: Config, lines: list[str]) -> bytes:
    """What to keep of a file with those facts: what it says, and the lines about its mistakes.

    Raises ValueError if that cannot be written so that it is the same when it is read: a load of 1e-9, say.
    """
    text = _text(config, lines)
    if _said(*_config(text)) != _said(config, lines):
        raise ValueError("it does not come back the same")
    values = text.encode()
    return _head(path, facts) + _sum(values) + values


def _text(config: Config, lines: list[str]) -> str:
    """All that is to be kept: a row for each value, of its key, its pool, itself and its source."""
    rows = [(*where, _value(value), source) for where, (value, source) in config.said.items()]
    rows += [("", "", "", line) for line in lines]
    return "".join("\t".join(row) + "\n" for row in rows)


def _value(value: object) -> str:
    """`value` as the text that its parser takes."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ",".join(f"{name}={percent!r}" for name, percent in value.items())
    return value if isinstance(value, str) else repr(value)


def _config(text: str) -> tuple[Config, list[str]]:
    """What `_text` has made a text of. Raises ValueError or LookupError if it has not."""
    config = Config()
    lines: list[str] = []
    for row in text.removesuffix("\n").split("\n") if text else ():
        key, pool, value, source = row.split("\t")
        if pool:
            parse_pool(pool, source)
        if not key:
            lines.append(source)
        else:
            config.said[key, pool] = KEYS[key][0](value, source), source
    return config, lines


def _said(config: Config, lines: list[str]) -> list[object]:
    return [config.said, lines]


def name(path: str) -> str:
    """What is kept of the file at `path` is called by that, and by the place of this code."""
    return f"kept-{int.from_bytes(os.fsencode(f'{path}:{__file__}'), 'big') % MOST_KEPT:x}"


def _head(path: str, facts: os.stat_result) -> bytes:
    """What it was made of, and by which code.

    The path counts because the values name it as their source. A change of the code shows in the ctime of its
    files, whatever an installer does to their other times: the version stays the same between two commits.
    """
    here = os.path.dirname(__file__)
    code = [os.stat(os.path.join(here, module)) for module in CODE]
    its = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    ours = [(one.st_ctime_ns, one.st_size) for one in code]
    return ascii((path, its, ours)).encode() + b"\n"


def _sum(values: bytes) -> bytes:
    return b"%016x" % (int.from_bytes(values, "little") % _MODULUS)


def _kept(directory: str, path: str) -> tuple[Config, list[str]] | None:
    """What was kept of the file at `path`, if it still counts."""
    try:
        head = _head(path, os.stat(path))
        content = _private_content(directory, name(path))
        values = content[len(head) + 16 :]
        if content[: len(head) + 16] != head + _sum(values):
            return None
        return _config(values.decode())
    except _FAILURES:
        return None


def _private_content(directory: str, kept: str) -> bytes:
    """What is in the file `kept`; OSError if there is none, or others may have written it."""
    above = _opened_private(directory, None, stat.S_IFDIR)
    try:
        descriptor = _opened_private(kept, above, stat.S_IFREG)
    finally:
        os.close(above)
    try:
        # Some 100 bytes a setting: 16 KiB of TOML make a few times that.
        return os.read(descriptor, 2**20)
    finally:
        os.close(descriptor)


def _opened_private(path: str, above: int | None, kind: int) -> int:
    """Open what must be ours alone to write. What is open is checked: a name may lead elsewhere meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | PLAIN, dir_fd=above)
    facts = os.fstat(descriptor)
    shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_IFMT(facts.st_mode) != kind or facts.st_uid != os.geteuid() or shared:
        os.close(descriptor)
        raise PermissionError
    return descriptor


def _keep(directory: str, kept: str, content: bytes) -> None:
    """Put `content` in the place of what was `kept` before; whoever reads sees the one or the other."""
    if not os.path.isdir(directory):
        make_parents(directory)
        make_directory(directory, shared=False)
    above = _opened_private(directory, None, stat.S_IFDIR)
    try:
        _replace(above, kept, content)
    finally:
        os.close(above)


def _replace(above: int, kept: str, content: bytes) -> None:
    """Write `content` under a name of its own, and then give it the name `kept`, which is looked at."""
    new = f".{kept}-{os.getpid()}"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=above)
    except FileExistsError:
        # Another thread has it, or a process of this number was killed here: the next build finds it free.
        _discard(above, new)
        raise
    try:
        _write(descriptor, content)
        os.rename(new, kept, src_dir_fd=above, dst_dir_fd=above)
    except BaseException:
        _discard(above, new)
        raise


def _write(descriptor: int, content: bytes) -> None:
    """Write all of `content` and close the descriptor, or raise OSError."""
    try:
        if os.write(descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _discard(above: int, new: str) -> None:
    try:
        os.unlink(new, dir_fd=above)
    except OSError:
        pass  # what is on its way, a Ctrl-C say, matters more
