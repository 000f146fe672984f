"""`buildslots setup shell`: shims, the line in the startup file, and all of it taken back."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import script
from shimmed import SYSTEM, Shimmed

if TYPE_CHECKING:
    import subprocess

BEGIN = "# >>> buildslots setup shell >>>\n"
FILES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish", "dash": ".profile"}
ASKED = {"bash": ["-ic"], "zsh": ["-ic"], "fish": ["-c"], "dash": ["-lc"]}


def setup(shimmed: Shimmed, *args: str, shell: str = "bash") -> subprocess.CompletedProcess[str]:
    """Run `buildslots setup shell ARGS`."""
    return shimmed.run(script("buildslots"), "setup", "shell", *args, SHELL=f"/bin/{shell}")


def done(shimmed: Shimmed, *args: str, shell: str = "bash") -> str:
    """The same without a question; what it says."""
    result = setup(shimmed, *args, "--yes", shell=shell)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def startup_file(shell: str) -> Path:
    """The file that a shell reads."""
    path = Path(os.environ["HOME"]) / FILES[shell]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def everything(directory: Path) -> dict[str, tuple[int, bytes | str]]:
    """All files and links below a directory, with their modes and what is in them."""
    return {
        str(path): (
            stat.S_IMODE(path.lstat().st_mode),
            os.readlink(path) if path.is_symlink() else path.read_bytes(),
        )
        for path in directory.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_the_line_that_is_printed(shimmed: Shimmed) -> None:
    """Without --user no file but the shims is written, and the line does what it says, whatever the path."""
    shimmed.environ["XDG_DATA_HOME"] = f'{shimmed.root}/it\'s "$HOME" `x`\\'
    before = everything(Path(os.environ["HOME"]))
    out = done(shimmed)
    assert everything(Path(os.environ["HOME"])) == before
    line = out.splitlines()[-1].strip()
    for shell in ("sh", "bash"):
        found = shimmed.said(shell, "-c", f"{line}\ncommand -v make", PATH=f"{shimmed.tools}:{SYSTEM}")
        assert found == f"{shimmed.environ['XDG_DATA_HOME']}/buildslots/shims/make"
    assert shimmed.said("sh", "-c", f"{line}\nmake all") == "make <all> in 0"


@pytest.mark.parametrize("shell", FILES)
@pytest.mark.parametrize("text", [None, "", "alias x=y\n", "alias x=y", "# é\n\n"])
def test_a_startup_file_gets_its_bytes_back(shimmed: Shimmed, shell: str, text: str | None) -> None:
    """Twice is once; the shell finds the shims; afterwards all files of the home are what they were."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done(shimmed, "--uninstall")
    path = startup_file(shell)
    if text is not None:
        path.write_text(text)
        path.chmod(0o640)
    home = Path(os.environ["HOME"])
    before = everything(home)
    done(shimmed, "--user", shell=shell)
    first = path.read_bytes()
    done(shimmed, "--user", shell=shell)
    assert path.read_bytes() == first
    assert stat.S_IMODE(path.stat().st_mode) == (0o600 if text is None else 0o640)
    found = shimmed.run(shell, *ASKED[shell], "command -v make", PATH=f"{shimmed.tools}:{SYSTEM}")
    assert found.stdout.strip() == str(shimmed.dir / "make"), found
    status = setup(shimmed, "--status")
    assert str(path.name) in status.stdout
    done(shimmed, "--uninstall", shell=shell)
    assert everything(home) == before


def test_what_others_add_later_stays(shimmed: Shimmed) -> None:
    path = startup_file("bash")
    path.write_text("one")
    done(shimmed, "--user")
    path.write_text(path.read_text() + "two\n")
    shimmed.environ["XDG_DATA_HOME"] = str(shimmed.root / "elsewhere")
    done(shimmed, "--user")
    text = path.read_text()
    assert (text.count(BEGIN), "elsewhere" in text, "home/.local" in text) == (1, True, False)
    done(shimmed, "--uninstall")
    assert path.read_text() == "one\ntwo\n"


def test_a_link_stays_a_link(shimmed: Shimmed) -> None:
    """People keep such files in a repository."""
    real = shimmed.root / "dotfiles"
    real.write_text("x=1\n")
    startup_file("bash").symlink_to(real)
    done(shimmed, "--user")
    assert BEGIN in real.read_text()
    done(shimmed, "--uninstall")
    assert (startup_file("bash").is_symlink(), real.read_text()) == (True, "x=1\n")


@pytest.mark.parametrize("case", ["read-only", "no end", "no terminal", "dry run"])
def test_what_is_left_alone(shimmed: Shimmed, case: str) -> None:
    """One sentence, and the file as it was."""
    path = startup_file("bash")
    path.write_text(f"x=1\n{BEGIN if case == 'no end' else ''}")
    if case == "read-only":
        path.chmod(0o400)
    before = path.read_bytes()
    more = {"no terminal": [], "dry run": ["--dry-run"]}.get(case, ["--yes"])
    result = setup(shimmed, "--user", *more)
    assert result.returncode == (0 if case == "dry run" else 1)
    assert "Traceback" not in result.stderr
    assert path.read_bytes() == before


def test_dry_run_writes_nothing(shimmed: Shimmed) -> None:
    done(shimmed, "--uninstall")
    before = everything(shimmed.root)
    assert "make" in done(shimmed, "--dry-run", "--user")
    assert everything(shimmed.root) == before
    done(shimmed, "--user")
    before = everything(shimmed.root)
    assert "make" in done(shimmed, "--dry-run", "--uninstall")
    assert everything(shimmed.root) == before


def test_status(shimmed: Shimmed) -> None:
    """0 only if a build would meet a shim, and the shim a slot-run."""
    assert setup(shimmed, "--status").returncode == 0
    shimmed.environ["PATH"] = shimmed.environ["PATH"].removeprefix(f"{shimmed.dir}:")
    result = setup(shimmed, "--status")
    assert (result.returncode, "not on PATH" in result.stdout) == (1, True)


@pytest.mark.parametrize("args", [["--project"], ["--mode", "deny"]])
def test_what_makes_no_sense(shimmed: Shimmed, args: list[str]) -> None:
    assert setup(shimmed, *args).returncode == 2
