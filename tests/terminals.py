"""Real terminals to test with: a shell in a tmux of its own."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import psutil
from builds import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


BASH = "bash --norc --noprofile -i"
ZSH = "zsh -f -i"


class Terminal:
    """An interactive shell in a tmux of its own."""

    def __init__(self, socket: Path, environ: dict[str, str], shell: str = BASH) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        environ = environ | {"PS1": "$ ", "HISTFILE": "", "TERM": "screen"}
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-x", "200", "-y", "50", shell],
            env=environ,
            check=True,
        )
        self.type("PS1='$ '")
        self.clear()

    def window(self, *command: str) -> None:
        """Run a command in a new window, without a shell: it leads the session, as after `ssh -t host`."""
        subprocess.run([*self._tmux, "new-window", *command], check=True)

    def close_window(self) -> None:
        """Close the newest window: its terminal hangs up."""
        subprocess.run([*self._tmux, "kill-window"], check=True)

    def keys(self, *keys: str) -> None:
        """Press keys, in tmux's names: C-c, C-z, Enter."""
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def type(self, line: str) -> None:
        """Type a command line."""
        subprocess.run([*self._tmux, "send-keys", "-l", line], check=True)
        self.keys("Enter")

    def clear(self) -> None:
        """Clear the screen, so that what is waited for next is not what stood there before."""
        self.type("clear")
        self.wait_until(lambda: self.lines() == ["$"], "nothing but a prompt")

    def type_at_prompt(self, line: str) -> None:
        r"""Type a command line when the shell asks for one.

        The prompt stands at the end of the last line, not always alone: a shell writes no new line before it
        where a command exits on a key, and the terminal has echoed the key there: "^\$".
        """
        self.wait_until(lambda: "".join(self.lines()[-1:]).endswith("$"), "a prompt")
        self.type(line)

    def lines(self) -> list[str]:
        """What stands on the screen, without empty lines."""
        screen = subprocess.run(
            [*self._tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True
        )
        return [line.rstrip() for line in screen.stdout.splitlines() if line.strip()]

    def styles(self) -> set[int]:
        """The numbers of all styles on the screen (SGR in ECMA-48) but those that set one back."""
        screen = subprocess.run(
            [*self._tmux, "capture-pane", "-p", "-e"], check=True, capture_output=True, text=True
        )
        found = re.findall(r"\x1b\[([\d;]*)m", screen.stdout)
        return {int(number or 0) for numbers in found for number in numbers.split(";")} - {0, 39, 49}

    def resize(self, columns: int, lines: int) -> None:
        """Make the terminal larger or smaller; programs in it are told a while after tmux is."""
        subprocess.run([*self._tmux, "resize-window", "-x", str(columns), "-y", str(lines)], check=True)
        with open(self._ask("pane_tty")) as terminal:
            size = (columns, lines)
            wait_until(lambda: os.get_terminal_size(terminal.fileno()) == size, f"a terminal of {size}")

    def wait_for(self, text: str) -> None:
        """Wait until a line on the screen begins with `text`."""
        self.wait_until(lambda: any(line.startswith(text) for line in self.lines()), f"{text!r}")

    def says_stopped(self) -> bool:
        """Whether bash or zsh say that a job has stopped."""
        return any(line.startswith(("[1]+  Stopped", "zsh: suspended")) for line in self.lines())

    def wait_for_stop(self) -> None:
        """Wait until the shell says that a job has stopped, and every process of it has.

        The shell waits for its own child alone. What that has started may not have run since Ctrl-Z. If it is
        in read(2), it takes the next key that is typed, and stops only then: n_tty_read in
        drivers/tty/n_tty.c looks for input before it looks for signals.

        One that waits in vfork(2) for a child stopped before its execve(2) does not stop, but sleeps
        undisturbed until that child goes on: dash starts commands so.
        """
        self.wait_until(self.says_stopped, "a stopped job")
        shell = psutil.Process(int(self._ask("pane_pid")))
        try:
            self.wait_until(lambda: all(map(has_stopped, shell.children())), "a job that is stopped")
        except BaseException:
            print(*shell.children(recursive=True), sep="\n")
            raise

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition()` is true of the screen; print the screen where it does not get so."""
        try:
            wait_until(condition, f"{what} on the screen")
        except BaseException:
            print("\n".join(self.lines()))
            raise

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)

    def _ask(self, variable: str) -> str:
        """What tmux says of the terminal: see "FORMATS" in tmux(1)."""
        command = [*self._tmux, "display-message", "-p", f"#{{{variable}}}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def has_stopped(process: psutil.Process) -> bool:
    """Whether `process` and all below it have stopped or ended, or wait in vfork(2) for such a child."""
    try:
        children = process.children()
        halted = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE} | (
            {psutil.STATUS_DISK_SLEEP} if children else set()
        )
        return process.status() in halted and all(map(has_stopped, children))
    except psutil.NoSuchProcess:
        return True
