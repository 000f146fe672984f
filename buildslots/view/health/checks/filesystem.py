"""The file system that a pool is on: its type, its options, the space that is left."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

import psutil

from buildslots.view.health.checks import (
    NOTE,
    OK,
    PROBLEM,
    Finding,
    Subject,
    existing,
    to_write,
    without_writing,
)
from buildslots.words import prose_path

NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afpfs|afs|9p|drvfs|lustre|ceph|gpfs|beegfs|glusterfs|orangefs|pvfs2|ocfs2|gfs2?"
    r"|coda|ncpfs|davfs2?|webdav|vboxsf|vmhgfs|prl_fs"
    r"|fuse\.(sshfs|rclone|s3fs|goofys|gcsfuse|geesefs|curlftpfs|smbnetfs|glusterfs|ceph|ceph-fuse|juicefs|mfs"
    r"|moosefs|gvfsd-fuse|kio-fuse|davfs2?|vmhgfs-fuse|google-drive-ocamlfuse|blobfuse2?)"
)
"""Types whose files other machines write as well: a lock there may count on one of them only, or hang
with the server. Windows' drives in WSL are 9p or drvfs (doc/docs/technical-documentation/drvfs.md of WSL)."""
LAYERED = re.compile(r"overlay|aufs|fuse\.fuse-overlayfs")
"""What containers have their own files on. A file that one container writes, even one of its image, is a copy
that no other container sees (Documentation/filesystems/overlayfs.rst of Linux). The host does not share its
locks either: a lock taken through an overlay does not exclude a lock of the same file in the upper directory
(tried on Linux 6.18)."""


@dataclass(frozen=True, slots=True)
class Mount:
    """The mount that a directory is on."""

    type: str
    point: str
    options: str


def filesystem(subject: Subject) -> list[Finding]:
    """Whether a pool can work on this kind of file system, in its present state."""
    where = existing(subject.settings.dir)
    # Not /proc/self/mountinfo: psutil reads the same table, and its like on other systems.
    mount = _mount(os.path.realpath(where))
    details: dict[str, object] = {}
    if mount is not None:
        details |= {"type": mount.type, "mounted_on": mount.point, "options": mount.options}
    found = [Finding("filesystem", PROBLEM, text, details) for text in _unfit(subject, where, mount)]
    if found:
        return found
    if mount is None:
        return [
            Finding("filesystem", NOTE, f"it cannot be found out what {prose_path(where)} is mounted from")
        ]
    if LAYERED.fullmatch(mount.type):
        text = (
            f"{prose_path(where)} is on this container's own layer ({mount.type}): "
            "other containers and their host do not see it; to share slots, mount one directory into all"
        )
        return [Finding("filesystem", NOTE, text, details)]
    if mount.type in {"tmpfs", "ramfs"} and _is_below_home(mount.point):
        text = (
            f"{prose_path(where)} is in memory ({mount.type} on {prose_path(mount.point)}), as the home of a "
            "sandbox is: who is outside does not see this pool, and is not counted in it"
        )
        return [Finding("filesystem", NOTE, text, details)]
    text = f"{mount.type}, mounted on {prose_path(mount.point)}, is on this machine and has room"
    return [Finding("filesystem", OK, text, details)]


def _is_below_home(point: str) -> bool:
    home = os.path.realpath(os.path.expanduser("~"))
    return point == home or point.startswith(home + os.sep)


def is_network(fstype: str, opts: str) -> bool:
    """Whether other machines share the files of such a mount. Options are comma-separated."""
    return bool(NETWORK.fullmatch(fstype.lower())) or (
        sys.platform == "win32" and "remote" in opts.split(",")
    )


def _mount(path: str) -> Mount | None:
    """The mount that `path` is on: the deepest one; of several there the last, which hides the others."""
    deepest, found = -1, None
    path = os.path.normcase(path)
    for mount in psutil.disk_partitions(all=True):
        point = os.path.normcase(mount.mountpoint).rstrip(os.sep)
        if (path == point or path.startswith(point + os.sep)) and len(point) >= deepest:
            deepest, found = len(point), Mount(mount.fstype, mount.mountpoint, mount.opts)
    return found


def _unfit(subject: Subject, where: str, mount: Mount | None) -> list[str]:
    """Sentences about what makes the file system of `where` unfit for a pool."""
    place = prose_path(where)
    unfit = []
    if mount is not None and is_network(mount.type, mount.options):
        unfit.append(
            f"{place} is on a file system that other machines share ({mount.type}), where locks cannot be "
            "relied on: set BUILD_SLOTS_DIR to a local directory"
        )
    if not hasattr(os, "statvfs"):
        if psutil.disk_usage(where).free == 0:
            unfit.append(f"no space is left for {place}, so builds run without slots: free some")
        return unfit
    room = os.statvfs(where)
    if room.f_flag & os.ST_RDONLY:
        unfit.append(
            f"{place} is mounted read-only, {without_writing(subject.settings.dir)}: "
            + to_write(subject, "remount it, or set BUILD_SLOTS_DIR to another place")
        )
    # Some file systems count no blocks or no inodes (btrfs, and most of FUSE), and say 0 of 0. What is
    # set aside for root counts for root only: statvfs(3).
    root = os.geteuid() == 0
    if room.f_blocks and not (room.f_bfree if root else room.f_bavail):
        unfit.append(f"no space is left for {place}, so builds run without slots: free some")
    if room.f_files and not (room.f_ffree if root else room.f_favail):
        unfit.append(f"no inodes are left for {place}, so builds run without slots: remove some files")
    return unfit
