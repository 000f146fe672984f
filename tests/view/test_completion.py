"""Completion in the real shells: what they offer for a line is what the parsers take there."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script, wait_until

import buildslots
from buildslots.run.options import BY_NAME
from buildslots.settings.places import config_path
from buildslots.view.options import SHELLS, TOPICS, build_parser

if TYPE_CHECKING:
    from terminals import Terminal

PAGE = Path(buildslots.__file__).parent / "help" / "slot-run.md"


class Shell(ABC):
    """A shell that has loaded the script, and in which a command "tool" has a completion of its own."""

    @abstractmethod
    def offered(self, line: str) -> set[str]:
        """What it offers for the last word of the line."""

    def offers(self, line: str, expected: set[str], head: str = "") -> None:
        """Assert what it offers, without the `head` of the word that some repeat in front of a value."""
        assert {self.bare(offer, head) for offer in self.offered(line)} == expected

    @staticmethod
    def bare(offer: str, head: str) -> str:
        """An offer without `head`, and without the slash of a directory."""
        return offer.removeprefix(head).rstrip("/")


class Bash(Shell):
    """Calls the function with what bash itself sets for it ("Programmable Completion" in its manual)."""

    COMPLETE = """
        _comp_command_offset() {  # stands in for bash-completion's
            [[ ${COMP_WORDS[$1]} == tool ]] || return
            [[ $word == -* ]] && COMPREPLY=(--polish) || COMPREPLY=($(compgen -W "alpha beta" -- "$word"))
        }
        eval "$(buildslots completion bash)"
        word=$1
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        function=$(complete -p "$1")
        function=${function#*-F }
        ${function%% *} "$1" "$word"
        printf '%s\\n' "${COMPREPLY[@]}"
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def offered(self, line: str) -> set[str]:
        # "=" is one of COMP_WORDBREAKS: it is a word of its own, and what is replaced starts behind it.
        words = re.findall(r"[^ =]+|=", line) + ([""] if line.endswith(" ") else [])
        word = words[-1].removeprefix("=")
        result = self.pool.run("bash", "--norc", "-c", self.COMPLETE, "bash", word, *words)
        assert (result.returncode, result.stderr) == (0, "")
        return {offer for offer in result.stdout.split("\n") if offer}


class Fish(Shell):
    """Asks `complete -C` (https://fishshell.com/docs/current/cmds/complete.html)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def offered(self, line: str) -> set[str]:
        tool = "complete -c tool -f -a 'alpha beta'; complete -c tool -l polish"
        result = self.pool.run(
            "fish", "-c", f"{tool}; buildslots completion fish | source; complete -C '{line}'"
        )
        assert (result.returncode, result.stderr) == (0, "")
        # Behind the tab is a description. An option whose value may be left out is offered with "=", too.
        return {offer.partition("\t")[0].removesuffix("=") for offer in result.stdout.splitlines()}


class Zsh(Shell):
    """Types at a real zsh, because its completion runs nowhere but in its line editor."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        for line in (
            "exec zsh -f",
            "PS1='$ '; autoload -U compinit; compinit -u -D; bindkey '^I' list-choices",
            "zstyle ':completion:*' verbose no",
            "_tool() { _arguments --polish '*:what:(alpha beta)' }; compdef _tool tool",
            'eval "$(buildslots completion zsh)"',
        ):
            terminal.type(line)
        terminal.clear()

    def offered(self, line: str) -> set[str]:  # noqa: ARG002 - it stands on the screen
        _, *listed = self.terminal.lines()
        return {word for line in listed for word in line.split()}

    def offers(self, line: str, expected: set[str], head: str = "") -> None:
        # Not by the command `clear`: while that runs, the terminal itself would show what is typed next.
        self.terminal.keys("C-u", "C-l")
        wait_until(lambda: self.terminal.lines() == ["$"], "an empty line")
        self.terminal.keys("-l", line)
        self.terminal.keys("Tab")
        wait_until(
            lambda: {self.bare(offer, head) for offer in self.offered(line)} == expected,
            f"{expected} below {line!r}",
        )


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands on PATH, two pools in the directory and one in another, and a working directory."""
    for pool in ("pool/pools/link", "pool/pools/web", "other/pools/far"):
        (tmp_path / pool).mkdir(parents=True)
    (tmp_path / "cwd" / "work-dir").mkdir(parents=True)
    (tmp_path / "cwd" / "work-file").touch()
    (tmp_path / "bin").mkdir()
    for name in ("tool", "tool-box"):
        (tmp_path / "bin" / name).touch(0o755)
    monkeypatch.chdir(tmp_path / "cwd")
    commands = [os.path.dirname(script("slot-run")), str(tmp_path / "bin")]
    monkeypatch.setenv("PATH", os.pathsep.join([*commands, os.environ["PATH"]]))


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, pool: Pool) -> Shell:
    """Each shell in turn."""
    if request.param == "zsh":
        return Zsh(request.getfixturevalue("terminal"))
    return {"bash": Bash, "fish": Fish}[request.param](pool)


def options_of_buildslots() -> dict[str, set[str]]:
    """The options of `buildslots`, by command; those of the top level under ""."""
    parser = build_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parsers = {"": parser, **commands.choices}
    return {
        name: {option for action in parser._actions for option in action.option_strings}
        for name, parser in parsers.items()
    }


def test_every_option_is_offered(shell: Shell) -> None:
    """Neither parser has an option that a script forgot, nor a script one that its parser refuses."""
    shell.offers("slot-run -", {*BY_NAME})
    for command, options in options_of_buildslots().items():
        shell.offers(f"buildslots {command} -".replace("  ", " "), options)


def test_every_command_is_offered(shell: Shell) -> None:
    """`buildslots` completes to the commands that its parser has."""
    shell.offers("buildslots ", {*options_of_buildslots()} - {""})


@pytest.mark.parametrize("name", SHELLS)
def test_nothing_is_left_to_be_filled_in(pool: Pool, name: str) -> None:
    """Each place for options and words in a script's file got some."""
    script = pool.run("buildslots", "completion", name).stdout
    assert "slot-run" in script
    assert re.findall(r"@\w+@", script) == []


def test_values(shell: Shell) -> None:
    """Pools, of the directory on the line if there is one; what has a few good values; paths."""
    pools = {"default", "link", "web"}
    shell.offers("slot-run -p ", pools)
    shell.offers("slot-run --pool ", pools)
    shell.offers("slot-run --pool=", pools, "--pool=")
    shell.offers("slot-run -q -t 5 --pool=w", {"web"}, "--pool=")
    shell.offers("slot-run -qpl", {"link"}, "-qp")
    shell.offers("slot-run -qn3 -p l", {"link"})
    shell.offers("slot-run --dir ../other -p ", {"default", "far"})
    shell.offers("slot-run --dir=../other --pool=f", {"far"}, "--pool=")
    shell.offers("slot-run --on-timeout ", {"run", "paced", "fail"})
    shell.offers("slot-run -t ", {"0", "2m", "10m", "1h", "none"})
    shell.offers("slot-run -w 2 --min-free-memory ", {"1G", "2G", "4G"})
    shell.offers("slot-run --max-load 4 --max-pressure=io=40 -p l", {"link"})
    shell.offers("slot-run --tokens=", {"auto", "off"}, "--tokens=")
    shell.offers("slot-run --tokens=of", {"off"}, "--tokens=")
    shell.offers("slot-run --tokens -p l", {"link"})
    shell.offers("slot-run --tokens=4 -p l", {"link"})
    shell.offers("slot-run --tokens tool a", {"alpha"})
    shell.offers("slot-run --dir work", {"work-dir"})
    shell.offers("buildslots status -ap ", pools)
    shell.offers("buildslots history --pool=l", {"link"}, "--pool=")
    shell.offers("buildslots doctor --dir ../other -p f", {"far"})
    shell.offers("buildslots pools --dir work", {"work-dir"})
    shell.offers("buildslots trace -o work", {"work-dir", "work-file"})
    shell.offers("buildslots status l", {"link"})
    shell.offers("buildslots doctor --dir ../other f", {"far"})
    shell.offers("buildslots report work", {"work-dir", "work-file"})
    shell.offers("buildslots completion ", set(SHELLS))
    shell.offers("buildslots fleet ", {"create"})
    shell.offers("buildslots help ", set(TOPICS))


def test_what_slot_run_runs_completes_as_if_it_stood_alone(shell: Shell) -> None:
    """The name of the command, its arguments and its options, with "--" and without."""
    for start in ("slot-run ", "slot-run -- ", "slot-run -q -n 3 ", "slot-run --pool=link -- "):
        if not isinstance(
            shell, Bash
        ):  # there bash-completion does it, and something stands in for that here
            shell.offers(f"{start}tool", {"tool", "tool-box"})
        shell.offers(f"{start}tool ", {"alpha", "beta"})
        shell.offers(f"{start}tool -- a", {"alpha"})
        shell.offers(f"{start}tool --po", {"--polish"})
        shell.offers(f"{start}tool --polish a", {"alpha"})
        shell.offers(f"{start}tool -p ", {"alpha", "beta"})
    if not isinstance(shell, Bash):
        shell.offers("slot-run -- -p ", {"work-dir", "work-file"})


def test_bash_without_bash_completion(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of commands and of files are offered, whatever they are made of."""
    monkeypatch.setattr(Bash, "COMPLETE", Bash.COMPLETE.replace("_comp_command_offset", "_something_else"))
    bash = Bash(pool)
    bash.offers("slot-run tool", {"tool", "tool-box"})
    bash.offers("slot-run -p link -- tool", {"tool", "tool-box"})
    bash.offers("slot-run tool work", {"work-dir", "work-file"})
    bash.offers("slot-run ../bin/tool-", {"../bin/tool-box"})
    for name in ("*", " a  b", "c\\d"):
        Path(name).touch()
    bash.offers("slot-run tool ", {"*", " a  b", "c\\d", "work-dir", "work-file"})


def test_bash_where_the_equals_sign_breaks_no_words(pool: Pool) -> None:
    """Then --pool=l is replaced as a whole. In bash 3.2 it is one word, of which the value is replaced."""
    for word, expected in (("--pool=l", "--pool=link"), ("l", "link")):
        result = pool.run("bash", "--norc", "-c", Bash.COMPLETE, "bash", word, "slot-run", "--pool=l")
        assert (result.stdout.split(), result.stderr) == ([expected], "")


def test_bash_completion_passes_the_equals_sign_as_the_word(pool: Pool) -> None:
    """In `slot-run slot-run --pool=`; bash itself passes an empty word there, as in all other tests."""
    result = pool.run("bash", "--norc", "-c", Bash.COMPLETE, "bash", "=", "slot-run", "--pool", "=")
    assert (result.stdout.split(), result.stderr) == (["default", "link", "web"], "")


@pytest.mark.parametrize("name", ["bash", "fish"])
def test_without_buildslots_on_the_path_there_are_no_pools_and_no_complaints(
    pool: Pool, tmp_path: Path, name: str
) -> None:
    """As after a virtual environment was left: a Tab must not write over the line that is typed."""
    (tmp_path / "script").write_text(pool.run("buildslots", "completion", name).stdout)
    complete = {
        "bash": "COMP_WORDS=(slot-run -p '') COMP_CWORD=2; _slot_run slot-run ''; echo ${COMPREPLY[@]}",
        "fish": "complete -C 'slot-run -p '",
    }
    program = shutil.which(name)
    assert program, f"{name} is not installed"
    text = f"source {tmp_path}/script; {complete[name]}"
    result = pool.run(program, "-c", text, environ={"PATH": str(tmp_path / "bin")})
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_tab_in_a_real_bash(terminal: Terminal) -> None:
    """A pool is completed, and a directory behind an equals sign."""
    terminal.type('eval "$(buildslots completion bash)"')
    terminal.clear()
    terminal.keys("-l", "slot-run -p li")
    terminal.keys("Tab")
    terminal.wait_for("$ slot-run -p link")
    terminal.keys("-l", "--", "--dir=wo")
    terminal.keys("Tab")
    terminal.wait_for("$ slot-run -p link --dir=work-dir")


def test_installed_as_the_manual_says(pool: Pool, terminal: Terminal) -> None:
    """In bash and zsh by their start-up files, in fish by a file for each command; in zsh a file does too."""
    page = PAGE.read_text(encoding="utf-8")
    home = Path(pool.environ["HOME"])

    def says(line: str) -> str:
        assert f"\n{line}\n" in page
        return line

    functions = home / ".config" / "fish" / "completions"
    functions.mkdir(parents=True)
    line = says(
        "buildslots completion fish | tee ~/.config/fish/completions/{slot-run,buildslots}.fish >/dev/null"
    )
    assert pool.run("fish", "-c", line).returncode == 0
    for command in ("slot-run -p l", "buildslots status -p l"):
        assert pool.run("fish", "-c", f"complete -C '{command}'").stdout.startswith("link\t")

    (home / ".bashrc").write_text(says('eval "$(buildslots completion bash)"') + "\nPS1='$ '\n")
    terminal.type("exec bash")
    terminal.clear()
    terminal.keys("-l", "buildslots status -p li")
    terminal.keys("Tab")
    terminal.wait_for("$ buildslots status -p link")
    terminal.keys("C-u")

    zshrc = "PS1='$ '\nfpath=(~/functions $fpath)\nautoload -U compinit && compinit -u -D\n"
    (home / ".zshrc").write_text(zshrc + says('eval "$(buildslots completion zsh)"') + "\n")
    terminal.type("exec zsh")
    terminal.clear()
    terminal.keys("-l", "buildslots status -p li")
    terminal.keys("Tab")
    terminal.wait_for("$ buildslots status -p link")
    terminal.keys("C-u")

    (home / "functions").mkdir()
    (home / "functions" / "_slot-run").write_text(pool.run("buildslots", "completion", "zsh").stdout)
    (home / ".zshrc").write_text(zshrc)
    terminal.type("exec zsh")
    terminal.clear()
    for line in ("slot-run -p li", "buildslots status -p li", "slot-run -p we"):
        terminal.keys("-l", line)
        terminal.keys("Tab")
        terminal.wait_for(f"$ {line.replace('li', 'link').replace('we', 'web')}")
        terminal.keys("C-u")


def test_pools(pool: Pool) -> None:
    """The default pool first, then what has a directory, a setting or a variable, in order, each once."""
    rooms = pool.dir / "pools"
    for name in ("a.b", "Z", "default", ".hidden", "not a pool", "end.", "nul"):
        (rooms / name).mkdir()
    (rooms / "file").touch()
    config = Path(config_path(os.environ))
    config.parent.mkdir(parents=True)
    config.write_text(
        "timeout = 9\n[pools.ci]\nslots = 1\n[pools.link]\ntimeout = 1\n[pools.default]\non_timeout = 'run'\n"
    )
    result = pool.run("buildslots", "pools", environ={"BUILD_SLOTS_POOL": "mine"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split("\n") == ["default", "Z", "a.b", "ci", "link", "mine", "web", ""]
    assert pool.run("buildslots", "pools", "--dir", "../other").stdout == "default\nci\nfar\nlink\n"


def test_pools_only_looks(pool: Pool) -> None:
    """Where no pool has been used, there is the default one, and still no directory."""
    result = pool.run("buildslots", "pools", "--dir", "none")
    assert (result.returncode, result.stdout, result.stderr) == (0, "default\n", "")
    assert not Path("none").exists()


def test_pools_that_cannot_be_read(pool: Pool) -> None:
    """What is known is printed; the problem is said, and the status is 1."""
    Path("bad").mkdir()
    Path("bad/pools").symlink_to("pools")
    result = pool.run("buildslots", "pools", "--dir", "bad")
    assert (result.returncode, result.stdout) == (1, "default\n")
    assert result.stderr.startswith("buildslots: ")
    assert "bad/pools" in result.stderr
