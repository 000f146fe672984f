"""Plans: what is wrong with one is said in whole sentences before anything starts; --dry-run shows one."""

from __future__ import annotations

import json
import os
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from batches import Batches, ended, events, toml
from builds import script

from buildslots import Batch, PlanError, SettingError, run_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from buildslots import Report

    Run = Callable[..., Report]
    Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def refused(batches: Batches, batch: Command) -> Callable[[str], list[str]]:
    """What `buildslots batch` says of a plan that cannot be: it exits with 2, and has started nothing."""

    def refused(text: str) -> list[str]:
        (batches.dir / "plan.toml").write_text(text)
        result = batch("plan.toml")
        assert (result.returncode, result.stdout) == (2, "")
        assert batches.runs() == []
        assert not batches.pool.dir.exists()
        lines = result.stderr.splitlines()
        assert all(line.startswith("buildslots: ") for line in lines)
        return [line.removeprefix("buildslots: ") for line in lines]

    return refused


def plan(*tasks: str, top: str = "") -> str:
    return "\n".join([top, *(f'[[task]]\nrun = ["touch", "started"]\n{task}' for task in tasks)])


MISTAKES = {
    "unknown key": (
        plan('name = "a"\nretrys = 1'),
        "task 'a': there is no key 'retrys'; the nearest is retries",
    ),
    "nothing near": (plan('name = "a"\nqqqq = 1'), "task 'a': there is no key 'qqqq'"),
    "unknown key at the top": (plan(top="job = 1"), "at the top: there is no key 'job'; the nearest is jobs"),
    "needs at the top": (plan(top='needs = ["a"]'), "needs stands at the top, and belongs into a [[task]]"),
    "no run": ('[[task]]\nname = "a"', 'task \'a\': there is no key run: write run = ["make", "-j4"]'),
    "one bracket": (
        '[task]\nname = "a"',
        "task is not a list of tables: write [[task]], with two brackets, above",
    ),
    "unknown need": (
        plan('name = "fetch"', 'name = "a"\nneeds = ["fetsh"]'),
        "task 'a' needs 'fetsh', which is no task; the nearest is fetch",
    ),
    "itself": (plan('name = "a"\nneeds = ["a"]'), "tasks wait for each other in a circle: 'a' needs 'a'"),
    "circle": (
        plan(
            'name = "a"\nneeds = ["c"]',
            'name = "b"\nneeds = ["a"]',
            'name = "c"\nneeds = ["b"]',
            'name = "d"',
        ),
        "tasks wait for each other in a circle: ",
    ),
    "double name": (plan('name = "a"', 'name = "a"'), "two tasks have the name 'a': give one another name"),
    "no such phase": (
        plan('name = "a"\nphase = "instal"', top='phases = ["fetch", "install"]'),
        "task 'a': phase 'instal' is not one of phases; phases are fetch, install",
    ),
    "no phases": (
        plan('name = "a"\nphase = "x"'),
        "task 'a': phase 'x' is not one of phases: write phases = [\"…\"] at the top",
    ),
    "later phase": (
        plan(
            'name = "a"\nphase = "one"\nneeds = ["b"]',
            'name = "b"\nphase = "two"',
            top='phases = ["one", "two"]',
        ),
        "task 'a' of phase 'one' needs 'b', which is of the later phase 'two'",
    ),
    "stage in a stage": (
        plan('name = "a"\nstage = "/d/x"', 'name = "b"\nstage = "/d/x/y"', 'name = "c"\nstage = "/d/x-y"'),
        "the stage '/d/x/y' lies in the stage '/d/x': neither could be whole alone",
    ),
    "one stage twice": (
        plan('name = "a"\nstage = "/d/x"', 'name = "b"\nstage = "/d/./x/"'),
        "two tasks have the stage '/d/x': give one another destination",
    ),
    "not TOML": ("[[task]\n", "plan.toml is not TOML: "),
    "not UTF-8 names": (plan('name = "\\u0000"'), "task '\\x00': name = '\\x00' is not a text"),
}


@pytest.mark.parametrize(("text", "sentence"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_said_in_one_sentence(
    refused: Callable[[str], list[str]], text: str, sentence: str
) -> None:
    """With what is wrong and with what may have been meant; nothing starts."""
    (said,) = refused(text)
    assert said.startswith(sentence)
    assert not sentence.endswith(("e", "s", "a")) or said.endswith(sentence) or "above" in sentence


def test_a_circle_is_named_in_full(refused: Callable[[str], list[str]]) -> None:
    """Each step of it, and none that is not of it."""
    (said,) = refused(MISTAKES["circle"][0])
    steps = said.removeprefix(MISTAKES["circle"][1]).split(", ")
    assert sorted(steps) == ["'a' needs 'c'", "'b' needs 'a'", "'c' needs 'b'"]
    assert all(one.split()[-1] == other.split()[0] for one, other in pairwise(steps))


def test_all_mistakes_are_said_at_once(refused: Callable[[str], list[str]]) -> None:
    """Whoever writes a plan corrects it once; of very many the rest is counted."""
    assert (
        len(refused(plan('name = "a"\nretries = -1\ncwdd = "x"', 'name = "b"\nweight = 0', top="jobs = 0")))
        == 4
    )
    lines = refused(plan(*[f'name = "{number}"\nretries = -1' for number in range(25)]))
    assert len(lines) == 21
    assert lines[-1] == "and 5 mistakes more"


STATUS = "which is not the exit status of a failure, 1 to 255"
DURATION = "is not a duration such as 0.5, 200ms, 90s, 2m or 1h30m"
COMMAND = 'is not a command: a list such as ["make", "-j4"], or a string for the shell'
VALUES: list[tuple[str, Any, str]] = [
    ("name", "", "is not a text"),
    ("name", 3, "is not a text"),
    ("name", "x" * 201, "is longer than 200 characters"),
    *((key, [], COMMAND) for key in ("run", "verify", "undo", "unless")),
    ("run", {"a": 1}, COMMAND),
    ("run", ["echo", 1], COMMAND),
    ("run", [""], "is not a command: it names no program, or has in it what no argument can have"),
    ("run", "", "is not a text"),
    ("cwd", "", "is not a text"),
    ("cwd", ["a"], "is not a text"),
    ("cwd", "~somebody/x", "begins with a ~ that is not your home: write it out"),
    ("env", ["A=1"], 'is not a table of variables, such as { CC = "gcc" }'),
    ("env", {"A": 1}, "has for A a value that is no text: 1"),
    ("env", {"A=B": "1"}, "names a variable that no program could have: 'A=B'"),
    ("env", {"A": "\0"}, "has for A a value that is no text: '\\x00'"),
    ("needs", "fetch", 'is not a list of names of tasks, such as ["fetch"]'),
    ("needs", [1], "is not a text"),
    ("phase", "", "is not a text"),
    ("serial", 1, "is not a text"),
    ("pool", "../x", "is not the name of a pool"),
    ("pool", 1, "is not the name of a pool"),
    ("weight", 0, "is not a whole number from 1 to "),
    ("weight", True, "is not a whole number from 1 to "),
    ("weight", 1.5, "is not a whole number from 1 to "),
    ("timeout", "soon", DURATION),
    ("timeout", -1, DURATION),
    ("on_timeout", "explode", "is n"),
    ("retries", -1, "is not a whole number from 0 to 1000"),
    ("retries", "1", "is not a whole number from 0 to 1000"),
    ("retries", 1001, "is not a whole number from 0 to 1000"),
    ("backoff", "200 parsecs", DURATION),
    ("backoff", True, DURATION),
    ("max_backoff", [], DURATION),
    ("retry_on", [0], f"has 0, {STATUS}"),
    ("retry_on", [256], f"has 256, {STATUS}"),
    (
        "retry_on",
        ["timeuot"],
        'has \'timeuot\', which is no exit status, not "timeout" and not "stderr: REGEX"',
    ),
    ("retry_on", ["stderr: ("], "has a regular expression that is none: "),
    ("time_limit", 0, 'leaves it no time at all: write "none", or leave it out'),
    ("time_limit", "1 fortnight", DURATION),
    ("pause_on", 75, 'is not a table of exit statuses and durations, such as { 75 = "60s" }'),
    ("pause_on", {"0": "1s"}, f"has 0, {STATUS}"),
    ("pause_on", {"75": "later"}, DURATION),
    ("stage", "", "is not a text"),
    ("stage", 1, "is not a text"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), VALUES, ids=[f"{k}={v!r:.20}" for k, v, _ in VALUES])
def test_a_bad_value_is_said_in_one_sentence(
    refused: Callable[[str], list[str]], key: str, value: Any, sentence: str
) -> None:
    """With the task, the key, the value and what it has to be; the library says it likewise."""
    keys = {"name": "a", "run": ["touch", "started"], key: value}
    (said,) = refused("[[task]]\n" + "\n".join(f"{name} = {toml(it)}" for name, it in keys.items()))
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:59] + "…"
    who = "task 1" if key == "name" and value != "x" * 201 else f"task {keys['name']!r:.59}"
    assert said.startswith(f"{who}"[:30])
    assert f"{key} = {shown} {sentence}" in said
    with pytest.raises(PlanError) as error:
        run_batch([keys])
    assert f"{key} = {shown} {sentence}" in str(error.value)


TOP = [
    ("jobs = 0", "jobs = 0 is not a whole number from 1 to 1024"),
    ("jobs = true", "jobs = True is not a whole number from 1 to 1024"),
    ('fail = "later"', 'fail = \'later\' is not "soon", "never" or "now"'),
    ('all_or_nothing = "yes"', "all_or_nothing = 'yes' is not true or false"),
    (
        'phases = ["a", "a"]',
        "phases = ['a', 'a'] is not a list of different names, such as [\"fetch\", \"install\"]",
    ),
    ('phases = "a"', "phases = 'a' is not a list of different names"),
    ('name = ""', "name = '' is not a text of at most 200 characters"),
    ("retries = -1", "at the top: retries = -1 is not a whole number from 0 to 1000"),
]


@pytest.mark.parametrize(("top", "sentence"), TOP, ids=[top for top, _ in TOP])
def test_a_bad_value_at_the_top_is_said_in_one_sentence(
    refused: Callable[[str], list[str]], top: str, sentence: str
) -> None:
    """With the key, the value and what it has to be."""
    (said,) = refused(plan("", top=top))
    assert said.startswith(sentence)


USAGE = [
    ([], "batch: give a FILE with tasks, or -- and a COMMAND"),
    (["--"], "batch: behind -- belongs a command"),
    (["x.toml", "--", "true"], "batch: give a FILE with tasks, or -- and a COMMAND"),
    (["-j", "0", "x.toml"], "argument -j/--jobs: "),
    (["--fail", "later", "x.toml"], "argument --fail: invalid choice: 'later'"),
    (["x.toml"], "x.toml: No such file or directory"),
    (["x.ndjson"], "x.ndjson: No such file or directory"),
    (["--dry-run", "-"], "--dry-run shows a plan, and "),
]


@pytest.mark.parametrize(("args", "sentence"), USAGE, ids=[" ".join(args) or "none" for args, _ in USAGE])
def test_a_wrong_command_line_is_said(
    batches: Batches, batch: Command, args: list[str], sentence: str
) -> None:
    """In one sentence, and with status 2."""
    result = batch(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr.splitlines()[-1]
    assert batches.runs() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"jobs": 0}, "jobs: '0' is not a whole number from 1 to 1024"),
        ({"jobs": 1.5}, "jobs: '1.5' is not a whole number"),
        ({"fail": "later"}, "fail: 'later' is none of"),
    ],
)
def test_a_bad_option_of_the_library_is_said(options: dict[str, Any], sentence: str) -> None:
    """With its value, as a ValueError."""
    with pytest.raises(SettingError) as error:
        Batch(**options)
    assert str(error.value).startswith(sentence)


def test_the_variable_for_jobs_counts_and_a_bad_one_is_ignored(
    batches: Batches, batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sentence; the option comes first, and then the plan."""
    file = batches.write({"run": ["true"]})
    own = batches.write({"run": ["true"]}, file="own.toml", jobs=5)
    monkeypatch.setenv("BUILD_BATCH_JOBS", "3")
    for args, jobs in (([file], 3), ([own], 5), (["-j2", own], 2)):
        assert events(batch("--json", *args).stdout)[0]["jobs"] == jobs
    monkeypatch.setenv("BUILD_BATCH_JOBS", "many")
    result = batch("--json", file)
    assert result.returncode == 0
    assert result.stderr == (
        "buildslots: BUILD_BATCH_JOBS: 'many' is not a whole number from 1 to 1024; ignored\n"
    )


def test_all_keys_are_read_from_toml(batches: Batches, batch: Command) -> None:
    """A plan with each of them is right; defaults at the top count for all, and tables of env are joined."""
    task = {
        "name": "a",
        "cwd": ".",
        "env": {"ONE": "1"},
        "phase": "x",
        "serial": "key",
        "pool": "",
        "weight": 2,
        "timeout": "none",
        "on_timeout": "fail",
        "retries": 1,
        "backoff": "200ms",
        "max_backoff": 1.5,
        "retry_on": [75, "timeout", "stderr: again"],
        "time_limit": "1h30m",
        "pause_on": {"75": "60s"},
        "verify": 'test "$ONE$TWO" = 12',
        "stage": "dest",
        "undo": ["true"],
        "unless": ["false"],
        "run": 'echo "$ONE$TWO" > "$STAGE/it"',
    }
    file = batches.write(task, {"run": ["true"]}, phases=["x"], env={"ONE": "0", "TWO": "2"}, jobs=2)
    result = batch(file)
    assert (result.returncode, result.stderr) == (0, "")
    assert batches.text("dest/it") == "12\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_shows_the_plan(batches: Batches, batch: Command, *, as_json: bool) -> None:
    """Phases, levels, slots, what needs what; nothing runs and nothing is kept."""
    file = batches.write(
        {"name": "c", "run": ["touch", "started"], "needs": ["a"]},
        {"name": "a", "run": "touch started; true", "weight": 2},
        {"name": "b", "run": ["touch", "started"], "phase": "two", "pool": "", "stage": "d", "serial": "k"},
        phases=["one", "two"],
        fail="never",
    )
    result = batch("--dry-run", "-j", "3", "-p", "link", file, *(["--json"] if as_json else []))
    assert (result.returncode, result.stderr, batches.text("started"), batches.runs()) == (0, "", "", [])
    if not as_json:
        assert result.stdout.splitlines() == [
            "batch plan: 3 tasks, 3 at once, fail never",
            "phase one, level 1",
            "  a: /bin/sh -c 'touch started; true'  (2 of pool link)",
            "phase one, level 2",
            "  c: touch started  (1 of pool link; needs a)",
            "phase two, level 1",
            f"  b: touch started  (no slot; stage {batches.dir}/d; serial k)",
        ]
        return
    first, *tasks = [json.loads(line) for line in result.stdout.splitlines()]
    assert first["event"] == "plan"
    assert (first["v"], first["jobs"], first["fail"], first["phases"]) == (1, 3, "never", ["one", "two"])
    assert [(one["task"], one["phase"], one["level"]) for one in tasks] == [
        ("a", "one", 1),
        ("c", "one", 2),
        ("b", "two", 1),
    ]
    assert [(one["pool"], one["weight"]) for one in tasks] == [("link", 2), ("link", 1), ("", 1)]


def test_json_lines_come_from_stdin_and_from_a_file(batches: Batches, batch: Command) -> None:
    """A task a line, blank lines and CR LF included; a name that nobody gave is the command line."""
    text = '{"run": ["sh", "-c", "echo one >>out"], "name": "one"}\r\n\n{"run": "echo two >>out"}'
    status, told = batches.json("-j1", "-", input=text)
    assert (status, ended(told)) == (0, {"one": "ok", "echo two >>out": "ok"})
    (batches.dir / "tasks.ndjson").write_text(text)
    result = batch("-j1", "--json", "tasks.ndjson")
    told = events(result.stdout)
    assert (result.returncode, told[0]["name"], len(told)) == (0, "tasks", 4)
    assert batches.text() == "one\ntwo\n" * 2


@pytest.mark.parametrize(
    ("last", "expected"),
    [(["<{}|{}>"], "<a b|a b> <$(x);'|$(x);'> <-n|-n>"), ([], "a b $(x);' -n")],
)
def test_a_template_gets_one_argument_a_line(batches: Batches, last: list[str], expected: str) -> None:
    """In place of each {}, or at the end; no shell sees it."""
    template = ["sh", "-c", 'printf "%s " "$1" >>out', "sh", *last]
    status, told = batches.json("-j1", "--", *template, input="a b\n$(x);'\n\n-n\n")
    assert (status, list(ended(told))) == (0, ["a b", "$(x);'", "-n"])
    assert batches.text() == f"{expected} "


BAD_LINES = [
    ("nonsense", "line 2 is not JSON: "),
    ("[1]", 'line 2 is not a JSON object, such as {"run": ["make"]}'),
    ("{}", "line 2: there is no key run"),
    (
        '{"run": ["true"], "needs": ["a"]}',
        "line 2: needs is for a plan: of a stream nothing is kept; write it as TOML",
    ),
    ('{"run": ["true"], "retrys": 1}', "line 2: there is no key 'retrys'; the nearest is retries"),
    ("[" * 100_000, "line 2 is not JSON: "),
]


@pytest.mark.parametrize(("line", "sentence"), BAD_LINES, ids=[line[:20] for line, _ in BAD_LINES])
def test_a_bad_line_of_a_stream_ends_it(batches: Batches, batch: Command, line: str, sentence: str) -> None:
    """What was started before comes to its end, nothing behind it starts, and the status is 2."""
    text = f'{{"run": "echo before >>out", "name": "one"}}\n{line}\n{{"run": "echo behind >>out"}}\n'
    (batches.dir / "tasks.ndjson").write_text(text)
    result = batch("-j1", "tasks.ndjson")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith(f"buildslots: {sentence}")
    assert "behind" not in batches.text()


@pytest.mark.parametrize(
    ("stdin", "status", "sentence"),
    [
        ("</dev/null", 0, "0 tasks: nothing to do in 0 s"),
        ("<&-", 2, "buildslots: stdin is closed, and the tasks come from there: give a file or a pipe"),
    ],
)
def test_stdin_may_be_anything(batches: Batches, stdin: str, status: int, sentence: str) -> None:
    """Also what epoll(7) does not take, and what is not there."""
    command = f"{shlex.quote(script('buildslots'))} batch -"
    result = batches.pool.run("sh", "-c", f"{command} {stdin}", cwd=batches.dir)
    assert (result.returncode, (result.stdout + result.stderr).strip()) == (status, sentence)


def test_a_directory_is_no_file_of_tasks(batches: Batches, batch: Command) -> None:
    """Whatever its name: the system says so, and we say it on."""
    (batches.dir / "tasks.ndjson").mkdir()
    result = batch("tasks.ndjson")
    assert (result.returncode, result.stderr) == (2, "buildslots: the tasks cannot be read: Is a directory\n")


def test_a_key_without_a_value_is_not_there(batches: Batches, batch: Command) -> None:
    """A program writes all keys of its record in JSON; and an editor of Windows marks a file's beginning."""
    line = '{"name": null, "run": ["true"], "needs": null, "phase": null, "retries": null}'
    (batches.dir / "tasks.ndjson").write_text(line, encoding="utf-8-sig")
    assert batch("--json", "tasks.ndjson").returncode == 0
    (batches.dir / "plan.toml").write_text('[[task]]\nrun = ["true"]\n', encoding="utf-8-sig")
    assert batch("plan.toml").returncode == 0


def test_a_stream_is_read_while_tasks_run(batches: Batches) -> None:
    """The first task of a pipe that is still open runs, and the next one can follow from what it did."""
    build = batches.start("--json", "-j2", "-", stderr=None)
    assert build.process.stdin is not None
    build.process.stdin.write(b'{"run": ["true"], "name": "one"}\n')
    assert json.loads(build.started())["event"] == "batch"
    assert json.loads(build.started())["task"] == "one"
    build.process.stdin.write(b'{"run": ["true"], "name": "two"}\n')
    build.process.stdin.close()
    assert json.loads(build.started())["task"] == "two"
    assert build.process.wait(30) == 0


def test_nothing_starts_for_a_mistake_in_python(run: Run) -> None:
    """Its sentences are in `problems`; tasks can be given in any order, and are checked as a whole."""
    with pytest.raises(PlanError) as error:
        run({"run": ["true"], "retrys": 1, "weight": 0})
    assert len(error.value.problems) == 2
    with pytest.raises(PlanError, match="task 'a' needs 'bb', which is no task; the nearest is b"):
        run({"run": ["touch", "ran"], "name": "b"}, {"run": ["true"], "name": "a", "needs": ["bb"]})
    with pytest.raises(PlanError, match="two tasks have the name 'a'"):
        run({"run": ["true"], "name": "a"}, {"run": ["true"], "name": "a"})
    with pytest.raises(PlanError, match="phase 'y' is not one of phases; phases are yy"):
        run({"run": ["true"], "phase": "y"}, phases=["yy"])
    with pytest.raises(PlanError, match="in a circle"):
        run({"run": ["true"], "name": "a", "needs": ["b"]}, {"run": ["true"], "name": "b", "needs": ["a"]})
    with pytest.raises(PlanError, match="no key run"):
        run({"name": "a"})
    assert not os.path.exists("ran")
