"""`buildslots setup`: files that are left as they are, and several who write at once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import script
from setups import FILES, GOLDEN, done, home_in, left, put, refused, setup

from buildslots.agents.setup import plan
from buildslots.agents.setup.refused import RefusedError

if TYPE_CHECKING:
    from builds import Pool


@pytest.fixture
def home() -> Path:
    """A home with a buildslots that stays, and no agent."""
    return home_in(Path(os.environ["HOME"]))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{\n  "a": 1,\n  oops\n}', "line 3: no key in quotation marks"),
        (b'{"a": 1,\n "a": 2}', 'line 2: the key "a" for the second time'),
        (b"[]", "it is no JSON object"),
        (b'{"hooks": [\n]}', 'line 1: "hooks" is no object'),
        (b'{"hooks": {\n"PreToolUse": {}}}', 'line 2: "PreToolUse" is no list'),
        (b'{"a": NaN}', "line 1: no value, or one that is no JSON"),
        (b'{} {"hooks": 1}', "line 1: text behind the end"),
        (b'{"a": "\n"}', "line 1: no value, or one that is no JSON"),
        (b"[" * 100_000, "line 1: more than 64 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1: a value that is no JSON"),
        (b'{\n"a": "\xff"}', "line 2: it is not UTF-8"),
        ("{}".encode("utf-16"), "line 1: it is not UTF-8"),
        (b" " * (1024 * 1024 + 1), "it is larger than 1048576 bytes"),
    ],
)
def test_what_cannot_be_read_is_left_as_it_is(pool: Pool, home: Path, data: bytes, text: str) -> None:
    """One sentence, with the file and the line."""
    path = put(home, "claude", data)
    said = refused(pool, "claude")
    assert said.startswith("buildslots: ~/.claude/settings.json is left as it is: ")
    assert text in said
    assert (path.read_bytes(), left(path.parent)) == (data, [path.name])
    shown = setup(pool, "--status")
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "set up" not in shown.stdout


def test_what_is_not_ours_to_write_is_left_as_it_is(pool: Pool, home: Path) -> None:
    """A file that its owner has closed, what is no file, a link to nothing, another version."""
    path = put(home, "claude", "{}")
    path.chmod(0o400)
    result = setup(pool, "claude", "--yes")
    assert result.returncode == 1
    assert "it is read-only" in result.stderr
    assert (path.read_text(), left(path.parent)) == ("{}", [path.name])
    path.chmod(0o600)
    done(pool, "claude")
    path.chmod(0o400)
    assert "is set up already" in done(pool, "claude")
    path.unlink()
    path.mkdir()
    assert "it is no file" in refused(pool, "claude")
    path.rmdir()
    os.mkfifo(path)
    assert "it is no file" in refused(pool, "claude")
    path.unlink()
    path.symlink_to("nowhere")
    assert "which is not there" in refused(pool, "claude")
    path.unlink()
    path.symlink_to(path)
    assert "is left as it is" in refused(pool, "claude")
    put(home, "cursor", '{"version": 2}')
    assert 'line 1: "version" is 2, and only 1 is known here' in refused(pool, "cursor")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_what_belongs_to_others_is_not_touched(
    pool: Pool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a link in a home of ours, and to root a home."""
    path = put(home, "claude", "{}")
    environ = dict(os.environ)
    at = plan.where(environ, project=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(RefusedError, match=r"it belongs to another user \(uid 0\)"):
        plan.setting_up("claude", "rewrite", at)
    target = path.rename(home / "target.json")
    os.chown(target, 1234, -1)
    path.symlink_to(target)
    plan.setting_up("claude", "rewrite", at)
    os.chown(path, 77, -1, follow_symlinks=False)
    with pytest.raises(RefusedError, match=r"it is a symbolic link of another user \(uid 77\)"):
        plan.setting_up("claude", "rewrite", at)
    monkeypatch.undo()
    os.chown(home, 1234, -1)
    environ = {"HOME": str(home), "XDG_STATE_HOME": ""}
    assert "root writes nothing in a place of another user" in refused(pool, "codex", environ=environ)
    assert (target.read_text(), left(path.parent)) == ("{}", [path.name])
    assert not (home / ".codex").exists()


def test_a_buildslots_that_may_go_away_is_not_named(pool: Pool, home: Path, tmp_path: Path) -> None:
    """In an environment of Python, a checkout, or a directory for temporary files."""
    program = home / ".local" / "bin" / "buildslots"
    program.unlink()
    checkout = home / "src" / "buildslots" / "bin"
    checkout.mkdir(parents=True)
    (checkout.parent / ".git").mkdir()
    for directory, why in (
        (os.path.dirname(script("buildslots")), "in an environment of Python"),
        (str(checkout), "in a checkout"),
        (str(tmp_path / "scratch"), "in a directory for temporary files"),
    ):
        Path(directory).mkdir(exist_ok=True)
        if not (Path(directory) / "buildslots").exists():
            shutil.copy("/bin/true", Path(directory) / "buildslots")
        said = refused(
            pool, "codex", environ={"PATH": f"{directory}:/usr/bin", "TMPDIR": str(tmp_path / "scratch")}
        )
        assert why in said
        assert "pipx install buildslots" in said
    program.symlink_to(script("buildslots"))
    assert "environment of Python" in refused(pool, "codex")
    program.unlink()
    venv = home / ".local" / "share" / "pipx" / "venvs" / "buildslots"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    shutil.copy("/bin/true", venv / "bin" / "buildslots")
    program.symlink_to(venv / "bin" / "buildslots")
    done(pool, "codex")
    assert f'"{program} hook codex || true"' in (home / FILES["codex"]).read_text()


def test_another_run_is_waited_for(pool: Pool, home: Path) -> None:
    """Nobody writes while another one does: what that has changed is seen before anything is overwritten."""
    path = put(home, "claude", "{}\n")
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    command = [script("buildslots"), "setup", "claude", "--mode", "rewrite", "--yes"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=pool.environ, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    while process.stdout.readline() != "+}\n":
        pass
    path.write_text('{"model": "opus"}\n')
    os.close(folder)
    assert "was changed meanwhile" in process.communicate(timeout=60)[1]
    assert (process.returncode, path.read_text()) == (1, '{"model": "opus"}\n')


def test_many_at_once_write_one_entry(pool: Pool, home: Path) -> None:
    """Of eight that set up at the same time none fails, and what is kept is what was there before."""
    before = (GOLDEN / "claude-others.before").read_bytes()
    path = put(home, "claude", before)
    command = [script("buildslots"), "setup", "claude", "--mode", "rewrite", "--yes"]
    running = [
        subprocess.Popen(command, env=pool.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(8)
    ]
    for process in running:
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    assert path.read_text().count("buildslots hook claude") == 1
    assert left(path.parent) == [path.name, f"{path.name}.before-buildslots"]
    done(pool, "claude", "--uninstall")
    assert path.read_bytes() == before


def test_a_file_that_changes_before_the_answer_is_not_overwritten(home: Path) -> None:
    """What was shown is not what would be written."""
    path = put(home, "claude", "{}\n")
    change = plan.setting_up("claude", "rewrite", plan.where(dict(os.environ), project=False))
    path.write_text('{"model": "opus"}\n')
    with pytest.raises(RefusedError, match="was changed meanwhile"):
        change.write(os.environ)
    assert (path.read_text(), left(path.parent)) == ('{"model": "opus"}\n', [path.name])
