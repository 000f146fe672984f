"""`buildslots hook`: each agent is answered as its documentation says; nothing it sends breaks it."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builds import DEADLINE_S, script
from hook_answers import ANSWERS

from buildslots.agents import hook
from buildslots.settings import places
from buildslots.view import options

ASKED: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("asked.json").read_text(encoding="utf-8")
)
COMMAND = 'cd "a dir" && make -j8 2>&1 | tail'
WRAPPED = 'cd "a dir" && slot-run make -j8 2>&1 | tail'


def environ(**more: str) -> dict[str, str]:
    """An environment whose PATH has slot-run."""
    return os.environ | {"PATH": f"{Path(script('slot-run')).parent}:/usr/bin:/bin"} | more


def name_of(agent: str) -> str:
    """What `buildslots hook` calls it: Copilot asks in two ways."""
    return agent.partition(" ")[0]


def asked(agent: str, command: object) -> bytes:
    """What an agent asks about a command."""
    asks = dict(ASKED[agent])
    if "toolArgs" in asks:
        asks["toolArgs"] = json.dumps(json.loads(asks["toolArgs"]) | {"command": command})
    else:
        asks["tool_input"] = asks["tool_input"] | {"command": command}
    return json.dumps(asks).encode()


def run(agent: str, payload: bytes, *args: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Ask the real executable."""
    return subprocess.run(
        [script("buildslots"), "hook", name_of(agent), *args],
        input=payload,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
        **({"env": environ()} | settings),
    )


def answered(agent: str, payload: bytes, *args: str) -> Any:
    """The answer, which fits the agent's schema; None: no opinion."""
    done = run(agent, payload, *args)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    if not done.stdout:
        return None
    said = json.loads(done.stdout)
    jsonschema.validate(said, ANSWERS[agent])
    return said or None


def values(said: Any, name: str) -> list[Any]:
    """All that a JSON document says under a name, at any depth."""
    if not isinstance(said, dict):
        return []
    return [value for key, value in said.items() if key == name] + [
        found for value in said.values() for found in values(value, name)
    ]


@pytest.mark.parametrize("agent", ASKED)
def test_a_build_gets_slot_run(agent: str) -> None:
    """All else that the tool was to get is as it was, but Claude's time limit."""
    said = answered(agent, asked(agent, COMMAND))
    assert values(said, "command") == [WRAPPED]
    given = values(json.loads(asked(agent, COMMAND)), "tool_input") or [
        json.loads(json.loads(asked(agent, COMMAND))["toolArgs"])
    ]
    changed = [*values(said, "updatedInput"), *values(said, "updated_input"), *values(said, "modifiedArgs")]
    expected = given[0] | {"command": WRAPPED} | ({"timeout": 600_000} if agent == "claude" else {})
    assert changed == ([] if agent == "gemini" else [expected])
    assert not values(said, "permissionDecision") or agent == "codex"


@pytest.mark.parametrize("agent", ASKED)
def test_a_build_is_refused(agent: str) -> None:
    """With the command that should be run, as JSON and with status 0."""
    said = answered(agent, asked(agent, COMMAND), "--mode", "deny")
    decisions = [v for name in ("permissionDecision", "permission", "decision") for v in values(said, name)]
    assert decisions == ["deny"]
    assert any(
        WRAPPED in v
        for name in ("permissionDecisionReason", "reason", "agent_message")
        for v in values(said, name)
    )


@pytest.mark.parametrize("agent", ASKED)
def test_a_build_is_remarked_on(agent: str) -> None:
    """Where the agent has a place for that."""
    said = answered(agent, asked(agent, COMMAND), "--mode=note")
    assert (said is None) == (agent in ("gemini", "cursor"))
    assert all(WRAPPED in text for text in values(said, "additionalContext"))


@pytest.mark.parametrize("mode", options.HOOK_MODES)
@pytest.mark.parametrize("agent", ASKED)
def test_no_opinion(agent: str, mode: str) -> None:
    """On what is no build or has slot-run, on other tools, events, shapes; without slot-run on PATH."""
    payload = asked(agent, "make")
    name = "toolName" if agent == "copilot" else "tool_name"
    event = ASKED[agent].get("hook_event_name", ASKED[agent].get("hookEventName", ""))
    others = [
        asked(agent, command)
        for command in ("ls -l", "slot-run make", "npm run dev", "sudo make", "", 17, ["make"])
    ]
    others += [
        payload.replace(b"make", b"\\u0000"),
        b"[]",
        b"17",
        b"",
        b"NaN",
    ]
    others += [json.dumps(ASKED[agent] | {name: "Read"}).encode(), json.dumps({name: None}).encode()]
    if event:
        others.append(payload.replace(event.encode(), b"PostToolUse"))
    silence = b"{}" if agent == "cursor" else b""
    for each in others:
        assert hook.answer(name_of(agent), each, environ(), mode) == silence, each
    assert hook.answer(name_of(agent), payload, environ(), mode) != silence or mode == "note"
    assert hook.answer(name_of(agent), payload, environ(PATH="/bin:/nowhere"), mode) == silence


def test_claude_keeps_a_longer_time_limit() -> None:
    """Somebody has raised the maximum."""
    payload = asked("claude", "make").replace(b"120000", b"900000")
    assert values(answered("claude", payload), "timeout") == [900_000]


@pytest.mark.parametrize("agent", ASKED)
def test_whatever_comes(agent: str) -> None:
    """Truncated, altered, random, deep: an answer in JSON or none, and no exception."""
    chance = random.Random(agent)
    payload = asked(agent, COMMAND)
    made = [payload[:n] for n in range(0, len(payload), 7)]
    for _ in range(300):
        broken = bytearray(payload)
        for _ in range(chance.randint(1, 5)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        made += [bytes(broken), chance.randbytes(chance.randint(0, 200))]
    made += [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, payload.replace(b'"make', b'"\\ud800 make')]
    made += [payload.replace(b'{"', b'{"x": 1e999, "', 2), payload.replace(b'{"', b'{"x": NaN, "')]
    made.append(asked(agent, "make " + "x" * 2**20))
    for each in made:
        for mode in options.HOOK_MODES:
            said = hook.answer(name_of(agent), each, environ(), mode)
            assert said.isascii()
            assert not said or json.loads(said, parse_constant=pytest.fail) is not None


def test_what_comes_through_the_executable(tmp_path: Path) -> None:
    """Too much, broken, with nothing at the other end, on a full disk, without HOME: always status 0."""
    good = asked("claude", COMMAND)
    for payload in (
        b"",
        b"\0" * 10,
        good[:-1],
        good[:50],
        b"x" * (3 * 2**20),
        asked("claude", "make" + " x" * 2**20),
    ):
        done = run("claude", payload)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    long = good.replace(b"/home/ann/app", b"x" * 2**20)
    assert run("claude", long).stdout == b""
    assert run("claude", long.replace(b"x" * 1000, b"")).stdout != b""
    nothing = {"PATH": environ()["PATH"], "HOME": "relative"}
    assert run("claude", good, env=nothing).stdout == run("claude", good).stdout != b""
    (tmp_path / "asked").write_bytes(good)
    for redirection in (">&-", "<&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "| true"):
        line = f'"$0" hook claude <asked {redirection}; s=$?; echo; echo $s'
        line = (
            line if "|" not in redirection else f'{{ "$0" hook claude <asked; echo $? >&2; }} {redirection}'
        )
        done = subprocess.run(
            ["sh", "-c", line, script("buildslots")], cwd=tmp_path, env=environ(), capture_output=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        last = (done.stderr if "|" in redirection else done.stdout).split(b"\n")[-2]
        assert last == b"0", (redirection, done)


def test_an_agent_that_says_nothing() -> None:
    """Its pipe stays open: the hook ends by itself, with no opinion."""
    with subprocess.Popen(
        [script("buildslots"), "hook", "claude"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ()
    ) as process:
        assert process.wait(DEADLINE_S) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""


@pytest.mark.parametrize(
    "args", [[], ["unknown"], ["claude", "--mode", "x"], ["claude", "x"], ["--mode", "deny"]]
)
def test_a_mistake_in_the_registration_blocks_nothing(args: list[str]) -> None:
    """Status 2, with which other commands say so, would refuse every command of an agent."""
    done = subprocess.run(
        [script("buildslots"), "hook", *args], input=asked("claude", "make"), capture_output=True,
        timeout=DEADLINE_S, check=False, env=environ(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"AGENT is one of claude" in done.stderr


def test_an_agents_text_is_not_run(tmp_path: Path) -> None:
    """Canaries in every place, in the words of shells and of JSON."""
    for canary in (
        "$(touch x)",
        "`touch x`",
        "\ntouch x\n",
        "'; touch x; '",
        '"; touch x; "',
        "$'\\n'touch x",
    ):
        for agent in ASKED:
            payload = asked(agent, f"make {canary}").replace(b"/home/ann", json.dumps(canary)[1:-1].encode())
            done = run(agent, payload, cwd=tmp_path)
            assert done.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def test_a_session_of_claude_gets_the_shims(tmp_path: Path) -> None:
    """Once, behind what others have written, and whatever its directory is called."""
    data, file = tmp_path / "it's $HOME", tmp_path / "session.sh"
    file.write_text("export OTHER=1")
    payload = json.dumps({"hook_event_name": "SessionStart", "source": "startup", "cwd": "/"}).encode()
    for _ in range(2):
        done = run("claude", payload, env=environ(XDG_DATA_HOME=str(data), CLAUDE_ENV_FILE=str(file)))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert file.read_text().count("PATH=") == 1
    told = subprocess.check_output(
        ["/bin/sh", "-c", '. "$0"; echo "$PATH $OTHER $BUILD_SLOTS_AGENT"', str(file)],
        env={"PATH": "/a:/b"},
        text=True,
    )
    assert told == f"{places.shims_dir({'XDG_DATA_HOME': str(data)})}:/a:/b 1 claude\n"


def test_a_session_without_a_usable_file(tmp_path: Path) -> None:
    """Nothing is followed, waited for or made elsewhere."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    payload = b'{"hook_event_name": "SessionStart"}'
    for name in ("fifo", "link", "home", "no/where"):
        done = run("claude", payload, env=environ(CLAUDE_ENV_FILE=str(tmp_path / name)))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert run("claude", payload, env=environ(CLAUDE_ENV_FILE="relative"), cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "home", "link"]


def test_the_words_of_the_command_line() -> None:
    """They stand in two places, because a hook is not to load the command line."""
    assert tuple(hook.AGENTS) == options.HOOK_AGENTS
    assert hook.MODES == options.HOOK_MODES
