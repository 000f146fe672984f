"""The file with a password: only what nobody else can have read or changed is sent to a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from buildslots.fleet.password import MOST_BYTES, PasswordError, read_password

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "hunter2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as it should be."""
    path = tmp_path / "pw"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"a", "a"),
        (b"a\n", "a"),
        (b"a\r\n", "a"),
        (b" a b \n", " a b "),
        (b"a\nb\n", "a"),
        ("ä\n".encode(), "ä"),
    ],
)
def test_it_is_the_first_line(path: Path, content: bytes, password: str) -> None:
    """Editors put a line end behind it; blanks may be of it."""
    path.write_bytes(content)
    assert read_password(str(path)) == password


def linked(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def replaced_by_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file or directory"),
        (lambda path: path.chmod(0o640), "can be read by others: chmod 600 it"),
        (lambda path: path.chmod(0o604), "can be read by others: chmod 600 it"),
        (lambda path: path.chmod(0o620), "can be read by others: chmod 600 it"),
        (lambda path: os.link(path, path.with_name("again")), "has another name as well: write it anew"),
        (linked, "is a symbolic link"),
        (replaced_by_a_fifo, "is no regular file"),
        (replaced_by_a_directory, "is no regular file"),
        (lambda path: path.write_text(""), "has no password in its first line"),
        (lambda path: path.write_text(f"\n{SECRET}"), "has no password in its first line"),
        (lambda path: path.write_bytes(b"\xff" + SECRET.encode()), "has no password in its first line"),
        (lambda path: path.write_text(SECRET * MOST_BYTES), "has no password in its first line"),
    ],
)
def test_what_cannot_be_trusted_is_not_sent(path: Path, spoil: Callable[[Path], object], why: str) -> None:
    """One sentence, with the name of the file and nothing of what is in it; a FIFO stops nobody."""
    spoil(path)
    with pytest.raises(PasswordError) as raised:
        read_password(str(path))
    assert str(raised.value).startswith("password_file ")
    assert str(raised.value).endswith(f"{path.name} {why}")
    assert SECRET not in str(raised.value)


def test_another_user_s_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That user could have the password of another account sent."""
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 1234, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(PasswordError, match=r"is another user's \(uid 1234\)"):
        read_password(str(path))
