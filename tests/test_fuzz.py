"""Whatever lies on the disk or stands in the environment: nothing crashes, hangs, or lets a build in.

Hypothesis makes it up; `EXAMPLES=50` in the environment tries 50 times as much, see `examples`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import contextmanager, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

import pytest
from builds import is_refused, script, step, take_now
from examples import tried
from hypothesis import assume, example, given
from hypothesis import strategies as st

from buildslots import SlotPool, processes
from buildslots.admission import _outer
from buildslots.backend import Request
from buildslots.disk import line, records
from buildslots.disk.directory import PoolDirectory
from buildslots.settings import file as config
from buildslots.settings import resolve
from buildslots.settings.machine import machine_cap
from buildslots.slot import HELD
from buildslots.status import pid_here
from buildslots.view.past import builds, history, report, trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builds import Pool

NESTED = b"[" * 100_000
HUGE = b"9" * 5000
ESCAPE = "\x1b[31m\x07\u202e"
KEYS = ["v", "t", "event", "id", "pool", "dir", "pid", "program", "command", "cwd", "slot", "slots", "weight"]
KEYS += [
    "waited_s",
    "ran_s",
    "cpu_s",
    "max_rss",
    "tokens_max",
    "status",
    "cap",
    "load",
    "cause",
    "start",
    "host",
    "pidns",
]
EVENTS = ["queued", "started", "fell_through", "gave_up", "ended", "degraded", "?"]

nothing_special = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([0, 2**31, -1, 10**400, ESCAPE, "\ud800", "</script>"]),
)
values = st.recursive(
    nothing_special, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)
entries = st.fixed_dictionaries(
    {
        "v": st.just(1),
        "t": st.one_of(st.floats(0, 2e9), st.integers(0, 10**12)),
        "event": st.sampled_from(EVENTS),
        "id": st.sampled_from(["a", "b"]),
        "pool": st.sampled_from(["default", "link"]),
        "dir": st.sampled_from(["/d", f"/{ESCAPE}"]),
        "pid": st.integers(0, 2**31 - 1),
        "program": st.sampled_from(["make", ESCAPE, "\ud800"]),
        "cwd": st.sampled_from(["/", ESCAPE, ""]),
    },
    optional={key: st.one_of(values, st.integers(0, 9), st.floats(0, 100)) for key in KEYS[10:]},
)
lines = st.one_of(
    st.binary(max_size=50),
    entries.map(lambda entry: json.dumps(entry).replace(" ", "").encode()),
    st.tuples(entries, st.sampled_from(KEYS), values).map(
        lambda it: json.dumps(it[0] | {it[1]: it[2]}).replace(" ", "").encode()
    ),
    st.sampled_from(
        [NESTED, b'{"v":1,"t":' + HUGE + b"}", b'{"v":1,"t":NaN}', b'{"v":1,' * 1000, b"\0" * 5000]
    ),
)


@contextmanager
def directory() -> Iterator[Path]:
    """An empty directory for one example."""
    path = tempfile.mkdtemp()
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path)


def is_plain(text: str) -> bool:
    """Whether nothing in it could steer a terminal."""
    return not any(category(c) in {"Cc", "Cf", "Cs"} for c in text.replace("\n", ""))


# Records.

record_lines = st.one_of(
    st.binary(max_size=30),
    st.tuples(
        st.sampled_from(
            [
                b"pid",
                b"start",
                b"since",
                b"cap",
                b"weight",
                b"nonce",
                b"waited",
                b"child",
                b"more",
                b"command",
            ]
        ),
        st.one_of(
            st.binary(max_size=20), st.sampled_from([HUGE, b"-1", b"nan", b"inf", b"1e999", "٣".encode()])
        ),
    ).map(b" ".join),
)


@tried(200)
@given(st.lists(record_lines), st.booleans())
def test_any_bytes_are_a_record_or_none(texts: list[bytes], whole: bool) -> None:
    """And what numbers it has are such, or not there."""
    text = b"\n".join(texts)
    fields = records.parse(records.MAGIC + text + b"\n" + records.END if whole else text)
    assert fields is not None or not whole
    for value in (fields or {}).values():
        number, seconds = processes.number(value), records.seconds(value)
        assert number is None or 0 <= number < 2**31
        assert seconds is None or 0 <= seconds < 1e12
    assert (records.age_s(fields or {}) or 0.0) >= 0


@tried(100)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"))), st.text("\\n\n "))
def test_a_record_says_what_was_written(command: list[str], cwd: str) -> None:
    """Whatever is in the command and the directory."""
    assume(sum(map(len, command)) < 500)
    fields = records.parse(records.record(records.about(command, cap=1, nonce="n", cwd=cwd)))
    assert fields is not None
    assert fields["command"].split("\0")[:-1] == command
    assert fields["cwd"] == cwd


# The pool's directory.

names = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40),
    st.integers(0, 10**22).map(str),
    st.integers(0, 10**20 - 1).map(lambda n: f"{n:020d}-1"),
    st.sampled_from(
        ["9" * 20 + "-1", "9" * 250, "0" * 20, "٣" * 20 + "-1", "slot-0", "slot-" + "9" * 200, "slot-٣"]
    ),
    st.sampled_from([f"{0:020d}-{ESCAPE}", f"{0:020d}-" + "9" * 200, f"{0:020d}-²", "slot-00", "slot--1"]),
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 255)
kinds = st.sampled_from(["file", "directory", "fifo", "link", "loop", "socket", "record"])


def make(path: str, kind: str) -> None:
    """Put something in a pool."""
    if os.path.lexists(path):
        return
    if kind == "directory":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("link", "loop"):
        os.symlink("nowhere" if kind == "link" else os.path.basename(path), path)
    elif kind == "socket":
        if len(os.fsencode(path)) > 100:  # the kernel's limit for their paths
            return
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    else:
        record = records.record(records.about(["make"], cap=1, nonce="n"))
        Path(path).write_bytes(record if kind == "record" else HUGE)


@tried(60)
@given(st.lists(st.tuples(st.sampled_from(["queue", "holders", "bells"]), names, kinds), max_size=6))
@example([("queue", f"{0:020d}-1", "loop"), ("queue", f"{0:020d}-2", "socket")])
def test_what_lies_in_a_pool_lets_nobody_in_and_costs_nobody_its_place(
    things: list[tuple[str, str, str]],
) -> None:
    """Nobody but who has locked a file is in line or holds a slot."""
    with directory() as path:
        pool = PoolDirectory(str(path))
        hold = take_now(pool, Request(1, ["make"]))
        ticket = step(pool, lambda: line.Ticket(pool.path, 1, b""))
        for room, name, kind in things:
            make(f"{path}/{room}/{name}", kind)
        assert is_refused(pool, Request(2, ["make"]))  # because somebody is in line
        second = step(pool, lambda: line.Ticket(pool.path, 1, b""))
        assert ticket.in_line()
        assert step(pool, second.ahead)[-1] == ticket.name
        assert step(pool, ticket.ahead) == []
        status = SlotPool(dir=str(path)).status()
        assert [holder.slots for holder in status.holders] == [(0,)]
        assert len(status.waiters) == 2
        ticket.leave()
        second.leave()
        hold.release()
        again = take_now(pool, Request(1, ["make"]))
        again.release()


@tried(60)
@given(st.binary(max_size=100) | st.lists(record_lines).map(b"\n".join), st.booleans())
def test_a_strange_record_makes_no_process_a_holder(text: bytes, whole: bool) -> None:
    """Status does not take it for a process of ours: such a pid might be ended by `release`."""
    with directory() as path:
        pool = PoolDirectory(str(path))
        hold = take_now(pool, Request(1, ["make"]))
        record = records.MAGIC + text + b"\n" + records.END if whole else text
        (path / "holders" / "slot-0").write_bytes(record)
        (holder,) = SlotPool(dir=str(path)).status().holders
        assert holder.foreign or holder.elsewhere or holder.pid is None
        if not holder.foreign:
            assert pid_here(str(path), holder) is None
        hold.release()


# The environment.


@tried(100)
@given(
    st.lists(st.tuples(st.text("0123456789:, -٣", max_size=12), st.text("0f:,", max_size=40)), max_size=5),
    st.booleans(),
)
@example([("9" * 5000, "n")], True)
def test_only_the_mark_of_a_held_slot_is_believed(
    pool: Pool, marks: list[tuple[str, str]], held: bool
) -> None:
    """And only while it is held."""
    directory = PoolDirectory(str(pool.dir))
    hold = take_now(directory, Request(1, ["make"]))
    forged = ",".join(f"{number}:{nonce}" for number, nonce in marks)
    forged += f",1:{hold.nonce},0:{hold.nonce}0,0:{hold.nonce[:-1]},{hold.nonce},0:"
    try:
        os.environ[HELD] = forged
        assert _outer(directory) is None
        os.environ[HELD] = f"{forged},0:{hold.nonce}"
        if not held:
            hold.release()
        assert _outer(directory) == (f"0:{hold.nonce}" if held else None)
    finally:
        del os.environ[HELD]
        hold.release()


VARIABLES = [
    "MAX_CONCURRENT_BUILDS",
    "MAX_CONCURRENT_BUILDS_LINK",
    "BUILD_SLOTS_POOL",
    "BUILD_SLOTS_TIMEOUT",
    "BUILD_SLOTS_ON_TIMEOUT",
    "BUILD_SLOTS_JOURNAL",
    "BUILD_SLOTS_DIR",
]
settings_texts = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        [HUGE.decode(), "0" * 5000, "²", "٣", "1e5", "nan", "inf", "-1", ESCAPE, "9" * 400 + "h", "\udcff"]
    ),
)


@tried(200)
@given(st.dictionaries(st.sampled_from(VARIABLES), settings_texts))
def test_any_environment_gives_settings(environ: dict[str, str]) -> None:
    """With a line about each mistake, in which nothing steers a terminal."""
    said: list[str] = []
    found = resolve(environ={"HOME": "/nowhere", **environ}, warn=said.append)
    assert 1 <= found.slots < 10**9
    assert found.timeout_s is None or 0 <= found.timeout_s < 1e9
    assert all(map(is_plain, said))


toml_values = st.sampled_from(
    [
        "1",
        '"2m"',
        "0x" + "f" * 5000,
        "nan",
        "-inf",
        "[[]]",
        "{a=1}",
        "{io=nan}",
        '"\\u001b[31m"',
        "1e999",
        "true",
        "[" * 3000,
    ]
)
toml_lines = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "slots",
                "timeout",
                "on_timeout",
                "journal",
                "max_load",
                "max_pressure",
                "min_free_memory",
                "pools",
                '"\\u001b"',
                "a.b",
            ]
        ),
        toml_values,
    ).map(" = ".join),
    st.sampled_from(
        ["[pools.link]", "[pools]", '[pools."\\u001b"]', "[[pools]]", "a = 1979-02-30", "x = '''", "\x1b"]
    ),
    st.text(max_size=10),
)


@tried(150)
@given(
    st.lists(toml_lines, max_size=8).map(lambda some: "\n".join(some).encode("utf-8", "replace"))
    | st.binary(max_size=40)
)
@example(HUGE)
@example(NESTED[:16000])
@example(b"x = " + NESTED[:16000])
@example(b"slots = " + HUGE)
@example(b"\n".join(b"a" * 3 + b"." + b"b" * 3 + b" = 1" for _ in range(1000)))
def test_any_config_file_is_read_or_complained_about(content: bytes) -> None:
    """In lines in which nothing steers a terminal; see also `test_settings`."""
    with directory() as path:
        file = path / "config.toml"
        file.write_bytes(content)
        found, said, _ = config.read(str(file))
        for (key, _), (value, _) in found.said.items():
            assert key != "slots" or 1 <= value < 10**9
        assert all(map(is_plain, said)), said


kernel_texts = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"0::/a/b\n",
            b"4:cpu,cpuacct:/a\n",
            b"36 35 98:0 / /cg rw - cgroup2 cgroup rw\n",
            b"36 35 98:0 / /c\\0g\\999 rw - cgroup cgroup rw,cpu\n",
            b"max 100000",
            b"-1",
            b"50000 0",
            HUGE + b" " + HUGE,
            b"0::" + b"/a" * 2000,
        ]
    ),
)


@tried(200)
@given(st.dictionaries(st.sampled_from(["cgroup", "mountinfo", "cpu.max", "cpu.cfs_quota_us"]), kernel_texts))
def test_any_machine_has_a_cap(files: dict[str, bytes]) -> None:
    """Whatever /proc and the cgroups say."""
    cap = machine_cap(
        system="linux", release="6", affinity=8, read=lambda path: files.get(os.path.basename(path))
    )
    assert 2 <= cap.slots <= 6
    assert cap.cores >= 1


# The journal.


def shown(state: Path, module: object, **options: object) -> str:
    """What a command makes of the journal in `state`."""
    asked = argparse.Namespace(pool=None, since=None, json=False, output="-", **options)
    out = TextIOWrapper(BytesIO(), encoding="utf-8", errors="replace")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setenv("XDG_STATE_HOME", str(state))
        assert module.run(asked) == 0  # type: ignore[attr-defined]
        out.flush()
    return out.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


@tried(120)
@given(st.lists(lines, max_size=8), st.sampled_from([b"\n", b""]), st.lists(lines, max_size=2))
def test_any_journal_can_be_shown(some: list[bytes], separator: bytes, older: list[bytes]) -> None:
    """As text for people, and as JSON and a page for programs."""
    with directory() as state:
        (state / "buildslots").mkdir()
        (state / "buildslots" / "journal.jsonl").write_bytes(separator.join(some))
        (state / "buildslots" / "journal-5.jsonl").write_bytes(b"\n".join(older))
        assert is_plain(shown(state, history))
        json.loads(shown(state, trace))
        page = shown(state, report)
        assert page.count("</script>") == report.page(builds.Past(0, 0, (), ())).count("</script>")


@pytest.mark.parametrize("name", ["command", "cause", "slots", "status"])
def test_a_line_may_be_nested_as_deeply_as_can_be_read(name: str) -> None:
    """What the JSON reader takes, the rest has to bear as well."""
    about = {
        "v": 1,
        "t": 1,
        "id": "a",
        "pool": "default",
        "dir": "/",
        "pid": 1,
        "cwd": "/",
        "event": "degraded",
    }
    if name != "command":
        about["program"] = "make"
    start = json.dumps(about, separators=(",", ":"))[:-1].encode()
    with directory() as state:
        (state / "buildslots").mkdir()
        for depth in [*range(900, 1010), *_deepest(), 50_000]:
            value = b"[" * depth + b"]" * depth
            (state / "buildslots" / "journal.jsonl").write_bytes(
                start + b',"%b":%b}\n' % (name.encode(), value)
            )
            builds.past(None, None, time.time(), str(state / "buildslots"))


def _deepest() -> range:
    """About how many lists within each other the JSON reader takes here."""
    low, high = 1, 100_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _is_read(middle) else (low, middle)
    return range(low - 20, low + 3)


def _is_read(depth: int) -> bool:
    try:
        json.loads("[" * depth + "]" * depth)
    except RecursionError:
        return False
    return True


# The commands themselves.


@pytest.mark.parametrize(
    "command",
    [
        ["buildslots", "status"],
        ["buildslots", "status", "--all", "--json"],
        ["buildslots", "doctor"],
        ["buildslots", "history"],
        ["buildslots", "release"],
        ["slot-run", "-n1", "--", "true"],
    ],
    ids=" ".join,
)
def test_commands_bear_it(pool: Pool, command: list[str]) -> None:
    """Hostile files and variables everywhere: no traceback, and nothing that steers a terminal."""
    for room in ("queue", "holders", "bells", "pools"):
        (pool.dir / room).mkdir(parents=True)
        for number, kind in enumerate(["file", "directory", "fifo", "loop", "socket", "record"]):
            make(f"{pool.dir}/{room}/{number:020d}-1", kind)
            make(f"{pool.dir}/{room}/slot-{number + 5}", kind)
            make(f"{pool.dir}/{room}/{number}{ESCAPE}", kind)
    home = Path(os.environ["HOME"])
    for path, content in {
        ".local/state/buildslots/journal.jsonl": NESTED + b"\n" + HUGE,
        f".config{ESCAPE}/buildslots/config.toml": b'slots = "\\u001b"\n"\\u001b" = 1\nmax_load = 1',
    }.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content)
    environ = {"MAX_CONCURRENT_BUILDS": ESCAPE, "BUILD_SLOTS_HELD": HUGE.decode(), "BUILD_SLOT": ESCAPE}
    environ["XDG_CONFIG_HOME"] = str(home / f".config{ESCAPE}")
    done = pool.run(script(command[0]), *command[1:], environ=environ)
    assert "Traceback" not in done.stderr
    assert is_plain(done.stdout), done.stdout
    assert is_plain(done.stderr), done.stderr
    if command[0] == "slot-run":  # also what it says of its own arguments
        assert is_plain(pool.slot_run("--", ESCAPE).stderr)
        assert "without a slot" not in done.stderr
        assert done.returncode == 0
