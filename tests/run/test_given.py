"""What the caller gave, arguments and environment, reaches the command byte by byte."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, script

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool

pytestmark = pytest.mark.linux
OURS = (b"BUILD_SLOT=", b"BUILD_SLOTS_HELD=")
# execve(2) itself: what it takes is more than a shell, env(1) or Python can pass on.
EXECVE = """
import ctypes, json, sys
path, argv, envp = (eval(word) for word in sys.argv[1:])
strings = lambda words: (ctypes.c_char_p * (len(words) + 1))(*words, None)
ctypes.CDLL(None, use_errno=True).execve(path, strings(argv), strings(envp))
sys.exit(f"errno {ctypes.get_errno()}")
"""


def entries(envp: list[bytes], *command: str) -> list[bytes]:
    """The entries that `command`, with `cat` behind it, finds when it is started with `envp`."""
    argv = [os.fsencode(word) for word in (*command, "cat", "/proc/self/environ")]
    words = [repr(value) for value in (argv[0], argv, envp)]
    result = subprocess.run(
        [sys.executable, "-c", EXECVE, *words], capture_output=True, check=True, timeout=DEADLINE_S
    )
    return [entry for entry in result.stdout.split(b"\0")[:-1] if not entry.startswith(OURS)]


ENVIRONMENTS = {
    "no locale": [],
    "C": [b"LANG=C", b"A=1"],
    "C by LC_CTYPE": [b"LC_CTYPE=C", b"A=1"],
    "POSIX": [b"A=1", b"LC_CTYPE=POSIX", b"B=2"],
    "C by LC_ALL": [b"LC_ALL=C", b"A=1"],
    "empty": [b"LC_CTYPE=", b"LANG="],
    "unknown": [b"LANG=xx_YY.UTF-8"],
    "the caller's own": [b"LC_CTYPE=C.UTF-8", b"LANG=C"],
    "bytes": [b"A=\xff\xfe\x80", b"\xff=b", b"E=", b"NL=a\nb"],
    "without a name": [b"=x", b"A=1"],
    "without =": [b"nothing", b"A=1", b""],
    "without =, and no locale": [b"nothing", b"LC_CTYPE=C"],
    "twice": [b"A=1", b"A=2", b"B=3"],
}


@pytest.mark.parametrize("kind", ENVIRONMENTS)
@pytest.mark.parametrize("way", ["with a slot", "without", "nested"])
def test_the_environment_is_the_caller_s_entry_by_entry(pool: Pool, kind: str, way: str) -> None:
    """Also what Python changes for itself in the locale C (PEP 538), and what its mapping cannot hold."""
    command = [script("slot-run")] * (2 if way == "nested" else 1)
    if way == "without":
        pool.dir.write_text("no directory")
    settings = [f"BUILD_SLOTS_DIR={pool.dir}".encode(), b"PATH=" + os.environb[b"PATH"]]
    envp = [*settings, *ENVIRONMENTS[kind]]
    assert entries(envp, *command) == envp


def test_an_empty_environment_stays_so(pool: Pool) -> None:
    """`env -i slot-run env` shows our own marks only."""
    result = pool.run("env", "-i", script("slot-run"), "--dir", str(pool.dir), "/usr/bin/env")
    names = {line.partition("=")[0] for line in result.stdout.splitlines()}
    assert (result.returncode, result.stderr, names) == (0, "", {"BUILD_SLOT", "BUILD_SLOTS_HELD"})


def test_odd_entries_change_nothing_else(pool: Pool, tmp_path: Path) -> None:
    """Status, signals, errors and scripts without "#!" are as with a plain environment."""
    run = ("env", "=x", script("slot-run"))
    assert pool.run(*run, "sh", "-c", "exit 7").returncode == 7
    assert pool.run(*run, "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    plain = tmp_path / "plain"
    plain.write_text('echo "$1 $BUILD_SLOT"; exec grep -E "^Sig(Blk|Ign)" /proc/self/status\n')
    plain.chmod(0o755)
    said, *masks = pool.run(*run, str(plain), "one").stdout.splitlines()
    # Signals 1 to 31: glibc's posix_spawn leaves its own two (32, 33) ignored in every child.
    assert (said, [int(line.split()[1], 16) & 0x7FFFFFFF for line in masks]) == ("one 0", [0, 0])
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    assert pool.run(*run, str(broken)).returncode == 127
    assert pool.held() == []


LOCALES = [("zh_TW", "BIG5"), ("de_DE", "ISO-8859-1")]


@pytest.mark.parametrize(("territory", "charset"), LOCALES)
def test_bytes_in_bytes_out(pool: Pool, tmp_path: Path, territory: str, charset: str) -> None:
    """In locales whose encoding is not that of the arguments, the environment, or the directory."""
    name = f"{territory}.{charset}"
    localedef = shutil.which("localedef")
    assert localedef, "localedef is missing: apt-get install libc-bin locales"
    subprocess.run(
        [localedef, "-i", territory, "-f", charset, str(tmp_path / name)], check=True, capture_output=True
    )
    environ = pool.environ | {"LOCPATH": str(tmp_path), "LC_ALL": name}
    utf8 = "äあ漢€é�".encode()
    words = [utf8, bytes(range(128, 256)), b"\xa1\x5a\xa1\xc3\xa2\xcc", b"", b"\x8f\xa1", b"a b"]
    cwd = os.path.join(os.fsencode(tmp_path), utf8)
    os.mkdir(cwd)
    program = os.path.join(cwd, "büild".encode())
    os.symlink("/bin/sh", program)
    show = b'printf "%s\\0" "$ODD" "$BUILD_SLOT" "$@"'
    for path in (program, b"./" + os.path.basename(program), os.path.basename(program)):
        result = subprocess.run(
            [os.fsencode(script("slot-run")), path, b"-c", show, *words],
            env={os.fsencode(key): os.fsencode(value) for key, value in environ.items()}
            | {b"ODD": utf8, b"PATH": cwd + b":" + os.environb[b"PATH"]},
            cwd=cwd,
            capture_output=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.split(b"\0")[:-1] == [utf8, b"0", *words[1:]]


PARENTS = {
    "sh": ("sh", "-c"),
    "bash": ("bash", "-c"),
    "zsh": ("zsh", "-fc"),
    "timeout below sh": ("sh", "-c"),
    "an odd environment": ("sh", "-c"),
    "without a slot": ("sh", "-c"),
    "nested": ("sh", "-c"),
}
SHOW_IGNORED = "grep SigIgn /proc/self/status"


@pytest.mark.parametrize("ignored", ["", "PIPE", "XFSZ", "PIPE XFSZ", "PIPE HUP INT"])
@pytest.mark.parametrize("parent", PARENTS)
def test_what_a_script_ignores_the_command_ignores(pool: Pool, parent: str, ignored: str) -> None:
    """Python ignores two signals for itself; the command has what it would have without slot-run."""
    trap = f"trap '' {ignored}; " if ignored else ""
    run = {
        "timeout below sh": f"timeout --foreground 30 {script('slot-run')}",
        "an odd environment": f"env =x {script('slot-run')}",
        "nested": f"{script('slot-run')} sh -c '{script('slot-run')} {SHOW_IGNORED}; :' #",
    }.get(parent, script("slot-run"))
    if parent == "without a slot":
        pool.dir.write_text("no directory")
    seen = []
    for wrapper in ("timeout --foreground 30" if "timeout" in parent else "", run):
        result = pool.run(*PARENTS[parent], f"{trap}{wrapper} {SHOW_IGNORED}; :")
        # Signals 1 to 31: glibc's posix_spawn leaves its own two (32, 33) ignored in every child.
        seen.append(int(result.stdout.split()[1], 16) & 0x7FFFFFFF)
    assert seen[0] == seen[1]


def test_what_a_program_ignores_for_itself_alone_the_command_does_not(pool: Pool) -> None:
    """Python, as which this runs, ignores SIGPIPE; `subprocess` resets it for what it starts."""
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    seen = int(pool.slot_run("grep", "SigIgn", "/proc/self/status").stdout.split()[1], 16)
    assert seen & 0x7FFFFFFF == 0
