"""Files in places that others can write too: made, opened and removed so that nobody misleads us.

Whoever else can write a pool, or a directory above it, may put anything in the place of what we make there.
So `Room` and `open_directory` find a directory once, for calls by its descriptor; `put_aside` frees a name
without a loss; and `check_root` keeps root out of the places of others.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from stat import S_ISDIR, S_ISLNK, S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

ROOMS = ("queue", "holders", "bells")
"""The directories in a pool's own. No link is followed in their places."""
LINKLESS = (*ROOMS, "builds")
"""Those, and the one of `tokens`."""
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""For open(2): a FIFO that somebody put in the place of a file must not stop a build."""
PLAIN = NO_WAIT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""The same for what lies in a pool: in a group's, a symbolic link may lead a member to a file of another. And
Windows would change line ends, and so the places of bytes."""
NO_FILE = frozenset({errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EOPNOTSUPP})
"""How open(2) says that a name is that of a link (EMLINK on FreeBSD) or of a socket (the last on macOS)."""
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
DIR_FDS = {os.open, os.unlink, getattr(os, "mkfifo", None)} <= os.supports_dir_fd
"""Whether files can be named by a descriptor of their directory; not on Windows, nor before macOS 13."""
TICK_S = 2.0
"""How far the time of a new file may be behind the clock. Most file systems keep that of the kernel's last
tick, 10 ms at most, some whole seconds (ext3, HFS+)."""
MADE_MEANWHILE = 10
"""How often a file that somebody else has made meanwhile is opened again: it may be a dangling link."""
ASIDE = ".aside-"
"""How the names begin under which `put_aside` leaves what it found."""


def close(fd: int) -> None:
    """Close `fd`; raises nothing, for an error decides nothing.

    On Linux the descriptor is gone whatever close(2) says, and what it says is of writes before, to hints.
    """
    try:
        os.close(fd)
    except OSError:
        pass


class Room:
    """`with Room(path) as (name, room)`: the file `path` in a pool, for calls with `dir_fd=room`.

    Who writes, makes or removes something in a pool names it so: whoever else can write the pool, or a
    directory above it, may have put a symbolic link there, and must not lead us to files of ours that have
    such names. Raises OSError if somebody has. Where the system has no such calls, they are the path and
    None.
    """

    __slots__ = ("_fd", "_path", "_pool")

    def __init__(self, path: str, pool: int | None = None) -> None:
        self._path = path
        self._pool = pool  # as `open_directory` has opened it, if the file is in a room of that
        self._fd: int | None = None

    def __enter__(self) -> tuple[str, int | None]:
        if not DIR_FDS:
            return self._path, None
        above, _, name = self._path.rpartition("/")
        room = above.rpartition("/")[2]
        if self._pool is None:
            self._fd = open_directory(above or "/", follow=room not in LINKLESS)
            return name, self._fd
        try:
            self._fd = os.open(room, os.O_RDONLY | DIRECTORY | PLAIN, dir_fd=self._pool)
        except OSError as error:
            error.filename = above  # for people
            raise
        return name, self._fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            close(self._fd)
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = self._path  # for people


def open_directory(path: str, *, follow: bool = True) -> int:
    """Open the directory at the absolute `path`: its descriptor, which no link of others has led to.

    A symbolic link on the way is followed only where its owner is us or root, and in the place of `path`
    itself only if `follow`. Raises OSError, ELOOP for a link of another user.
    """
    no_link = 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    fd = os.open(path, os.O_RDONLY | DIRECTORY | NO_WAIT | no_link)
    try:
        # What the kernel says of an open directory has no links in it (proc_pid_fd(5)): nearly always it is
        # the path itself, and one call has looked at the whole way.
        try:
            resolved = os.readlink(f"/proc/self/fd/{fd}") if _LINUX else None
        except OSError:
            resolved = None  # without /proc
        if resolved != path and (resolved is None or _reached.get(path) != resolved):
            _check_links(path, fd)
            if resolved is not None:
                _reached[path] = resolved
    except BaseException:
        close(fd)
        raise
    return fd


_LINUX = sys.platform == "linux"
_reached: dict[str, str] = {}
"""Where paths have led by links of ours or root's."""


def _check_links(path: str, fd: int) -> None:
    """Raise OSError (ELOOP) if a symbolic link of another user is on the way to `fd` along `path`.

    FileNotFoundError if `path` is not that of `fd` any more.
    """
    if not hasattr(os, "geteuid"):
        return  # Windows
    trusted = {0, os.geteuid()}
    end = 0
    while end != len(path):
        end = path.find("/", end + 1) if "/" in path[end + 1 :] else len(path)
        about = os.lstat(path[:end])
        if S_ISLNK(about.st_mode) and about.st_uid not in trusted:
            who = f"is a symbolic link of another user (uid {about.st_uid}), and not followed"
            raise OSError(errno.ELOOP, who, path[:end])
    if not os.path.samestat(os.stat(path), os.fstat(fd)):  # removed, or another one is there by now
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def check_root(path: str) -> None:
    """Raise PermissionError if we are root and the absolute `path` is in a place of another user.

    What root makes there its owner cannot use, but can read, and a link of his may lead root anywhere. A
    directory that a group shares is nobody's alone, nor is a sticky one that everybody can write.
    """
    if path in _roots or not hasattr(os, "geteuid") or os.geteuid():
        return
    end = 0
    while end != len(path):
        end = path.find("/", end + 1) if "/" in path[end + 1 :] else len(path)
        try:
            about = os.lstat(path[:end])
        except FileNotFoundError:
            break
        if about.st_uid == 0 or about.st_mode & 0o1002 == 0o1002 or is_shared(path[:end]):
            continue
        if about.st_uid == UNMAPPED and _in_user_namespace():
            continue
        why = (
            f"root makes nothing in a place of another user (uid {about.st_uid}), and so takes no slot there"
        )
        raise PermissionError(errno.EPERM, why, path[:end])
    _roots.add(path)


_roots: set[str] = set()
"""Paths that `check_root` has found to be root's."""
UNMAPPED = 65534
"""Who, in a user namespace, seems to own the files of users that it does not know (user_namespaces(7))."""


def _in_user_namespace() -> bool:
    """Whether we are root of a part of the users only."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as ids:
            return ids.read().split() != ["0", "0", str(2**32 - 1)]
    except OSError:
        return False


def is_shared(directory: str | int) -> bool:
    """Whether what is made in `directory` is its group's: it is setgid and group-writable, not everybody's.

    Each alone says too little: with umask 002 people make all their directories group-writable, and files in
    one that is not setgid get their maker's group (inode(7)).
    """
    try:
        return os.stat(directory).st_mode & 0o2022 == 0o2020
    except OSError:
        return False


def open_file(path: str, flags: int) -> int:
    """Open `path`: its descriptor. With O_CREAT it is made if missing, its owner's or its group's alone.

    What exists is opened without O_CREAT: in sticky directories fs.protected_regular refuses that flag for
    files of others (proc_sys_fs(5)). What is made is made with O_EXCL: who makes a file has to see to its
    mode, and must not change that of another file of ours, which somebody links here at that moment.
    """
    if not flags & os.O_EXCL:
        try:
            return os.open(path, flags & ~os.O_CREAT | PLAIN)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
    return open_in_room(path, flags)


def open_in_room(path: str, flags: int, pool: int | None = None) -> int:
    """The same for what is to be written in a room of a pool: see `Room`."""
    with Room(path, pool) as (name, room):
        above = os.path.dirname(name) if room is None else room
        again = MADE_MEANWHILE
        while True:
            if not flags & os.O_EXCL:
                try:
                    return os.open(name, flags & ~os.O_CREAT | PLAIN, dir_fd=room)
                except FileNotFoundError:
                    if not flags & os.O_CREAT:
                        raise
            try:
                fd = os.open(name, flags | os.O_CREAT | os.O_EXCL | PLAIN, 0o600, dir_fd=room)
            except FileExistsError:
                again -= 1
                if flags & os.O_EXCL or not again:
                    raise
                continue
            try:
                give_mode(fd, 0o660 if is_shared(above) else 0o600)
            except BaseException:
                close(fd)
                raise
            return fd


def give_mode(fd: int, mode: int) -> None:
    """Give the file `fd`, which we have made this moment, its mode, whatever the umask has left of that."""
    if hasattr(os, "fchmod") and os.fstat(fd).st_mode & 0o7777 != mode:
        os.fchmod(fd, mode)


def is_new(about: os.stat_result, since: float) -> bool:
    """Whether what `about` tells of is ours and was made since the Unix time `since`.

    In between somebody may have put an older one of ours in its place, and who may only rename it cannot set
    its mtime.
    """
    return about.st_uid == os.geteuid() and about.st_mtime >= since - TICK_S


def remove_in_room(path: str) -> None:
    """Remove the file `path` from a room of a pool: see `Room`."""
    with Room(path) as (name, room):
        os.unlink(name, dir_fd=room)


def give_back_mode(path: str) -> bool:
    """Open an empty file of ours in a pool, which a build has closed, to us again: whether it was one.

    Empty, as slots and the mutex are: what has something in it may be meant to be closed. Raises OSError.
    """
    if not hasattr(os, "O_PATH"):
        return False
    with Room(path) as (name, room):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=room)
        try:
            about = os.fstat(fd)
            ours = about.st_uid == os.geteuid() and S_ISREG(about.st_mode) and about.st_nlink == 1
            if not ours or about.st_size or about.st_mode & 0o600 == 0o600:
                return False
            os.chmod(f"/proc/self/fd/{fd}", 0o660 if room is not None and is_shared(room) else 0o600)
            return True
        finally:
            close(fd)


def cannot_be(path: str, is_kind: Callable[[int], bool], access: int) -> bool:
    """Whether what has the name `path` is of another kind than `is_kind(st_mode)` says, or is closed to us.

    Looked at, and not concluded from an error: that may have another reason, and somebody may have it locked.
    """
    try:
        if not is_kind(os.lstat(path).st_mode):
            return True
    except OSError:
        return False
    return not os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def put_aside(path: str) -> str:
    """Give what has the name `path` in a pool another name there, beginning with ASIDE: the path of that.

    For what is in the way: it may be a file that somebody is going to miss. Raises OSError.
    """
    above, name = os.path.split(path)
    aside = f"{ASIDE}{name}-{os.urandom(4).hex()}"
    with Room(path) as (name, room):
        other = aside if room is not None else os.path.join(above, aside)
        os.rename(name, other, src_dir_fd=room, dst_dir_fd=room)
    return os.path.join(above, aside)


def give_back_name(aside: str, path: str) -> None:
    """Undo `put_aside`, unless something has the name `path` again. Raises nothing: it stays aside then.

    Of two builds that see the same thing in the way the slower one would put aside what the other has made.
    """
    try:
        with Room(path) as (name, room):
            other = os.path.basename(aside) if room is not None else aside
            if S_ISDIR(os.lstat(other, dir_fd=room).st_mode):
                os.rename(other, name, src_dir_fd=room, dst_dir_fd=room)
            else:
                os.link(other, name, src_dir_fd=room, dst_dir_fd=room)
                os.unlink(other, dir_fd=room)
    except OSError:
        pass


def make_parents(path: str) -> None:
    """Make the directories above `path` that are missing, for us alone.

    So the XDG base directory specification has it. `os.makedirs` would leave it to the umask.
    """
    above = os.path.dirname(path)
    if above != path and not os.path.isdir(above):
        make_parents(above)
        make_directory(above, shared=False)


def make_directory(path: str, *, shared: bool) -> None:
    """Make the directory `path` unless it is there; a `shared` one is the group's, whatever the umask."""
    if os.path.isdir(path):
        return
    try:
        _make_directory(path, 0o2770 if shared else 0o700)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        if os.path.lexists(path) and not os.path.isdir(path):
            raise  # a file in its place, not a directory that was removed and made meanwhile


def _make_directory(path: str, mode: int) -> None:
    """Make a directory that has its mode from the first moment that others can see it under its name."""
    with Room(path) as (name, room):
        since = time.time()
        if mode == 0o700:  # nobody else can see it, and so it need not be finished before
            os.mkdir(name, mode, dir_fd=room)
            _finish_directory(name, room, mode, since)
            return
        above, own = os.path.split(name)
        unfinished = os.path.join(above, f".{own}-{os.urandom(8).hex()}")
        os.mkdir(unfinished, 0o700, dir_fd=room)
        made = None
        try:
            made = _finish_directory(unfinished, room, mode, since)
            # Over an empty one that another process has made meanwhile.
            os.rename(unfinished, name, src_dir_fd=room, dst_dir_fd=room)
        except BaseException:
            if made is not None and os.path.samestat(made, os.lstat(unfinished, dir_fd=room)):
                os.rmdir(unfinished, dir_fd=room)
            raise


def _finish_directory(name: str, room: int | None, mode: int, since: float) -> os.stat_result:
    """Give the directory `name`, made at `since`, its mode: what it is. Raises OSError if it is another."""
    if os.name != "posix":
        return os.lstat(name)
    return give_mode_by_name(name, room, mode, since, S_ISDIR)


def give_mode_by_name(
    name: str, room: int | None, mode: int, since: float, is_kind: Callable[[int], bool]
) -> os.stat_result:
    """Give what we have made as `name` at `since` its mode, if the umask has left another: what it is.

    For what cannot be made and opened in one call. It is changed by a descriptor, if it is of the kind that
    `is_kind(st_mode)` says, and new. Raises OSError if it is something else.
    """
    # O_PATH opens what a umask of 0777 has closed to ourselves.
    flags = getattr(os, "O_PATH", os.O_RDONLY | NO_WAIT) | getattr(os, "O_NOFOLLOW", 0)
    fd = os.open(name, flags, dir_fd=room)
    try:
        about = os.fstat(fd)
        mode |= about.st_mode & 0o2000  # which a directory has from the one that it is in
        if not is_kind(about.st_mode):
            raise FileExistsError(errno.EEXIST, "something else has taken its place", name)
        if about.st_mode & 0o3777 != mode:
            if not is_new(about, since):
                raise FileExistsError(errno.EEXIST, "another one has taken its place", name)
            if hasattr(os, "O_PATH"):
                os.chmod(f"/proc/self/fd/{fd}", mode)  # fchmod(2) takes no such descriptor
            else:
                os.fchmod(fd, mode)
        return about
    finally:
        close(fd)
