"""Draw the picture of README.md, a terminal in which builds wait: `python -m bench.picture`, 15 s.

The slots, the line and the screen are real: a shell in tmux shows `buildslots status` and then waits in line
with a build of its own. The builds are stand-ins, makes whose recipes sleep. Needs tmux and make.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from buildslots.estimates import LEAST
from buildslots.journal import NAME

COLUMNS, LINES = 104, 18
BUILDS = (
    ("kernel", "make -j4 all"),
    ("app", "make check"),
    ("site", "make -j2 pages"),
)
"""Directories below ~/src and what runs there, in the order in which they come; there are two slots."""
RAN_S = (250.0, 75.0, 100.0)
"""How long they took before."""
OURS = "slot-run make -j8 release"
BETWEEN_S = 4.0
"""From one build to the next, so that the times in the picture differ."""
DEADLINE_S = 30.0
PICTURE = Path(__file__).parent / "picture.svg"


class Screen:
    """A shell in a tmux of its own."""

    def __init__(self, socket: Path, environ: dict[str, str], cwd: Path) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        size = ["-x", str(COLUMNS), "-y", str(LINES)]
        shell = "bash --norc --noprofile -i"
        subprocess.run([*self._tmux, "new-session", "-d", *size, shell], env=environ, cwd=cwd, check=True)

    def type(self, line: str) -> None:
        """Type a command line."""
        subprocess.run([*self._tmux, "send-keys", "-l", line], check=True)
        subprocess.run([*self._tmux, "send-keys", "Enter"], check=True)

    def text(self) -> str:
        """What stands there, with its colours."""
        command = [*self._tmux, "capture-pane", "-e", "-p"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def wait_for(self, text: str) -> str:
        """Wait until `text` stands there; all that does."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in (screen := self.text()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {text!r} on the screen:\n{screen}")
            time.sleep(0.1)
        return screen

    def close(self) -> None:
        """End it and what runs in it."""
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


def main() -> None:
    """Run the builds, look at the screen, and write the picture."""
    home = Path(tempfile.mkdtemp(prefix="picture-"))
    environ = {
        "HOME": str(home),
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
        "MAX_CONCURRENT_BUILDS": "2",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
    }
    _remember(home)
    running = []
    screen = None
    try:
        for name, command in BUILDS:
            cwd = _project(home / "src" / name)
            build = ["slot-run", *command.split()]
            running.append(subprocess.Popen(build, cwd=cwd, env=environ, stderr=subprocess.DEVNULL))
            time.sleep(BETWEEN_S)
        screen = Screen(home / "tmux", environ, _project(home / "src" / "tools"))
        screen.type(r"PS1='\n\[\e[32m\]~/src/tools\[\e[0m\] $ '; clear")
        screen.wait_for("~/src/tools")
        screen.type("buildslots status")
        screen.wait_for("make -j2 pages")
        screen.type(OURS)
        picture = draw(screen.wait_for("place 2 of 2"))
    finally:
        if screen is not None:
            screen.close()
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.wait()
        shutil.rmtree(home)
    PICTURE.write_text(picture, encoding="utf-8")


def draw(screen: str) -> str:
    """The picture of a screen."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(screen.strip("\n")), soft_wrap=True)
    svg = console.export_svg(title="two slots, two builds, two in line", theme=MONOKAI, unique_id="waiting")
    # rich names fonts of a server; a picture that GitHub shows may load none, and needs none.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def _remember(home: Path) -> None:
    """Let the journal know such builds, so that there is something to say of how long they take."""
    common = {"v": 1, "t": 1.0, "event": "ended", "id": "0", "pool": "default", "pid": 1, "program": "make"}
    common["dir"] = str(home / ".cache" / ".build-slots")
    state = home / ".local" / "state" / "buildslots"
    state.mkdir(parents=True)
    lines = [
        common | {"cwd": str(home / "src" / name), "ran_s": ran_s, "status": 0}
        for (name, _), ran_s in zip(BUILDS, RAN_S, strict=True)
        for _ in range(LEAST)
    ]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (state / NAME).write_text(text)


def _project(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "Makefile").write_text("%:\n\t@sleep 600\n")
    return directory


if __name__ == "__main__":
    main()
