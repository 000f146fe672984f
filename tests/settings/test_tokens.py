"""How many tokens builds share, and how many jobs one may run: who says so, and what is wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from buildslots.errors import SettingError
from buildslots.run.options import Options, UsageError
from buildslots.settings import machine
from buildslots.settings.options import MOST_TOKENS

if TYPE_CHECKING:
    from builds import Pool
    from hosts import Host


def test_who_says_how_many_tokens(host: Host) -> None:
    """An option, the variable, the user's file (of the pool, then of all), the system's; else none do."""
    host.system.write_text("tokens = 1\n")
    host.config.write_text("tokens = 2\n[pools.link]\ntokens = 3\n")
    host.environ["BUILD_SLOTS_TOKENS"] = "4"
    found = host.resolve(pool="link", tokens=5)
    assert (found.tokens, found.source("tokens")) == (5, "option")
    found = host.resolve(pool="link")
    assert (found.tokens, found.source("tokens")) == (4, "BUILD_SLOTS_TOKENS")
    del host.environ["BUILD_SLOTS_TOKENS"]
    found = host.resolve(pool="link")
    assert (found.tokens, found.source("tokens")) == (3, f"{host.config}, line 3, key pools.link.tokens")
    assert host.resolve().tokens == 2
    host.config.unlink()
    assert host.resolve().tokens == 1
    host.system.unlink()
    found = host.resolve()
    assert (found.tokens, found.source("tokens"), found.jobs) == (None, "default", None)
    assert host.said == []


@pytest.mark.parametrize(("cores", "tokens"), [(1, 1), (2, 1), (64, 63)])
def test_auto_is_the_cores_less_one(
    host: Host, cores: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each build has a job without any token. On one core there is one all the same."""
    monkeypatch.setattr(machine, "machine_cap", lambda: SimpleNamespace(cores=cores))
    host.config.write_text('tokens = "auto"\n')
    found = host.resolve()
    assert found.tokens == tokens
    assert found.source("tokens").startswith(f"{host.config}, line 1, key tokens: auto, of {cores} core")
    assert host.resolve(tokens="auto").tokens == tokens


@pytest.mark.parametrize("off", ["off", "0"])
def test_off_counts_as_said(host: Host, off: str) -> None:
    """It is more than to say nothing: what comes after it does not count."""
    host.config.write_text("tokens = 2\n")
    host.environ["BUILD_SLOTS_TOKENS"] = off
    found = host.resolve()
    assert (found.tokens, found.source("tokens")) == (None, "BUILD_SLOTS_TOKENS")
    assert host.resolve(tokens="off").source("tokens") == "option"
    del host.environ["BUILD_SLOTS_TOKENS"]
    host.config.write_text(f'tokens = "{off}"\n')
    assert host.resolve().tokens is None


@pytest.mark.parametrize(
    ("text", "toml"), [("-1", "-1"), ("many", '"many"'), (str(MOST_TOKENS + 1), str(MOST_TOKENS + 1))]
)
def test_what_is_no_number_of_tokens(host: Host, text: str, toml: str) -> None:
    """An error as an option; elsewhere one line, and the next place counts."""
    problem = f"{text!r} is not a number of tokens from 1 to {MOST_TOKENS}, nor 'auto' or 'off'"
    with pytest.raises(SettingError) as raised:
        host.resolve(tokens=text)
    assert str(raised.value) == f"tokens: {problem}"
    host.environ["BUILD_SLOTS_TOKENS"] = text
    host.config.write_text(f"tokens = {toml}\n")
    assert host.resolve().tokens is None
    assert set(host.said) == {
        f"BUILD_SLOTS_TOKENS: {problem}; ignored",
        f"{host.config}, line 1, key tokens: {problem}; ignored",
    }


@pytest.mark.parametrize("value", [True, 1.5, [], "1e3"])
def test_tokens_of_another_type(host: Host, value: Any) -> None:
    """In Python code too."""
    with pytest.raises(SettingError, match=r"^tokens: .* is not a number of tokens"):
        host.resolve(tokens=value)


@pytest.mark.parametrize("jobs", [0, -1, True, "4", MOST_TOKENS + 1, 10**40])
def test_what_is_no_number_of_jobs(host: Host, jobs: Any) -> None:
    """From 1 on."""
    with pytest.raises(SettingError, match=r"^jobs: .* is not a number of jobs from 1 to"):
        host.resolve(jobs=jobs)
    assert host.resolve(jobs=8).jobs == 8


@pytest.mark.parametrize("key", ["tokens", "jobs"])
def test_a_project_says_neither(host: Host, key: str) -> None:
    """More jobs than its user wants would be more of the machine."""
    host.project.write_text(f"{key} = 4\n")
    found = host.resolve()
    assert (found.tokens, found.jobs) == (None, None)
    assert len(host.said) == 1
    assert host.said[0].startswith(f"{host.project}, line 1, key {key}: ")


@pytest.mark.parametrize(
    ("line", "tokens", "command"),
    [
        ("--tokens make", "auto", ["make"]),
        ("--tokens -q make", "auto", ["make"]),
        ("--tokens -- 8", "auto", ["8"]),
        ("--tokens=auto make", "auto", ["make"]),
        ("--tokens=8 make", 8, ["make"]),
        ("--tokens=off make", 0, ["make"]),
        ("--tokens=0 make", 0, ["make"]),
        ("--tokens --tokens=3 make", 3, ["make"]),
        ("make --tokens", None, ["make", "--tokens"]),
    ],
)
def test_the_value_of_tokens_stands_behind_an_equals_sign(
    line: str, tokens: int | str | None, command: list[str]
) -> None:
    """Or is not there: the next word is another option, or the command."""
    options = Options(line.split())
    assert (options.tokens, options.command) == (tokens, command)


def test_mistakes_of_the_command_line() -> None:
    """A number behind a blank is most likely the value, and no command."""
    with pytest.raises(UsageError, match="the value of option --tokens stands behind an =: --tokens=8"):
        Options(["--tokens", "8", "make"])
    with pytest.raises(SettingError, match="--tokens: '' is not a number of tokens"):
        Options(["--tokens=", "make"])
    with pytest.raises(UsageError, match="option --jobs needs a value"):
        Options(["--jobs"])
    for text in ("0", "x", "8.5", "99999"):
        with pytest.raises(SettingError, match=f"--jobs: '{text}' is not a number of jobs"):
            Options(["--jobs", text, "make"])
    assert Options(["--jobs=8", "make"]).jobs == Options(["--jobs", "8", "make"]).jobs == 8


def test_slot_run_takes_them(pool: Pool) -> None:
    """Whatever becomes of them, the command runs."""
    result = pool.slot_run("--tokens=off", "--jobs", "2", "echo", "ran")
    assert (result.returncode, result.stdout, result.stderr) == (0, "ran\n", "")
    result = pool.slot_run("--tokens", "2", "true")
    assert (result.returncode, result.stderr.count("\n")) == (125, 1)
