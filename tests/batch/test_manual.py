"""`buildslots help batch`: its tables say all there is, and its examples and recipes run as they stand."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script

import buildslots
from buildslots.batch import state
from buildslots.batch.plan import PLAN_KEYS, load_plan
from buildslots.batch.task import KEYS
from buildslots.view.options import build_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the examples are for sh")

HELP = Path(buildslots.__file__).parent / "help"
PAGE = (HELP / "batch.md").read_text(encoding="utf-8")
PRINTED = {"start", "retry"}
"""First words of lines that tell of a task that has not ended."""


def example(name: str, page: str = PAGE) -> str:
    """The fenced block of the page that follows the line <!-- example `name` -->."""
    found = re.search(rf"^<!-- example {name} -->\n```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no example {name}"
    return found[1]


def first_cells(section: str, head: str) -> list[str]:
    """The first cells of the table in a section that begins with such a head."""
    text = PAGE.partition(f"\n{section}\n")[2]
    rows = re.search(rf"^\| {head} \|.*\n\|--.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows, f"{section} has no table of {head}"
    return [line.split("|")[1].strip() for line in rows[1].splitlines()]


def words(cells: list[str]) -> list[str]:
    """What stands in backquotes in `cells`."""
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty directory to work in."""
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture
def run(pool: Pool, work: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """The pool, with ours first on PATH, and git without anybody's settings."""
    pool.environ["PATH"] = os.pathsep.join([os.path.dirname(script("python")), os.environ["PATH"]])
    pool.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        pool.environ |= {f"GIT_{who}_NAME": "x", f"GIT_{who}_EMAIL": "x@example.org"}
    monkeypatch.chdir(work)
    return pool


def batch(run: Pool, *args: str) -> tuple[int, list[str]]:
    """Run `buildslots batch ARGS`: its status, and its lines without durations."""
    done = run.run(script("buildslots"), "batch", *args)
    assert "Traceback" not in done.stderr
    return done.returncode, told(done.stdout)


def told(stdout: str) -> list[str]:
    """State and name in each line about a task that has ended."""
    ends = re.findall(r"^(\w[\w ]*?) +(\S.*?)(?::.*)? \[\d+(?:/\d+)?\]$", stdout, re.MULTILINE)
    return [f"{how} {name}" for how, name in ends if how not in PRINTED]


# The tables.


def test_the_table_of_keys_is_complete() -> None:
    """A key that is not described cannot be found by anybody."""
    section = "## Keys of a task"
    assert set(words(first_cells(section, "key"))) == set(KEYS)
    plan = PAGE.partition("Keys that belong to the plan itself:")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", plan.partition("## ")[0], re.MULTILINE)) == set(PLAN_KEYS)


def test_the_table_of_options_is_complete() -> None:
    """It names every option that `buildslots batch --help` does."""
    named = set(re.findall(r"--[a-z-]+", " ".join(first_cells("## Options", "option"))))
    (commands,) = (each for each in build_parser()._actions if each.dest == "command")
    options = {word for each in commands.choices["batch"]._actions for word in each.option_strings}
    assert named == {word for word in options if word.startswith("--")} - {"--help"}


def test_the_table_of_states_is_complete() -> None:
    """In the order in which a task goes through them."""
    names = ("QUEUED", "WAITING", "RUNNING", "RETRYING", "OK", "UNCHANGED", "FAILED", "TIMED_OUT")
    names += ("SKIPPED", "CANCELLED", "UNDONE")
    assert words(first_cells("## States", "state")) == [getattr(state, name) for name in names]


def test_the_table_of_json_is_complete(run: Pool) -> None:
    """Each field of each line is described, and none that is not there."""
    Path("plan.toml").write_text('[[task]]\nrun = "exit 3"\n')
    done = run.run(script("buildslots"), "batch", "--json", "plan.toml")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {field for line in lines for field in line} == set(words(first_cells("### JSON", "field")))
    assert [line["seq"] for line in lines] == [0, 1, 2]


# The examples.


def test_the_three_ways(run: Pool, work: Path) -> None:
    """A plan, arguments on stdin, JSON lines from a program."""
    (work / "plan.toml").write_text('[[task]]\nname = "planned"\nrun = "true"\n')
    (work / "a.log").write_text("a\n")
    program = work / "make-tasks"
    program.write_text('#!/bin/sh\necho \'{"name": "streamed", "run": ["true"]}\'\n')
    program.chmod(0o755)
    environ = {"PATH": f"{work}{os.pathsep}{run.environ['PATH']}"}
    done = run.run("sh", "-ec", example("ways"), environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert told(done.stdout) == ["ok planned", "ok a.log", "ok streamed"]
    assert (work / "a.log.gz").exists()


def test_the_plan(run: Pool, work: Path) -> None:
    """It does what is shown below it: one retry, and then the new directory is there."""
    (work / "plan.toml").write_text(example("plan"))
    (work / "icons.sh").write_text("echo $1\n")
    (work / "pages.sh").write_text("[ -e again ] || { touch again; exit 1; }; echo new\n")
    (work / "public").mkdir()
    (work / "public" / "old").touch()
    done = run.run(script("buildslots"), "batch", "plan.toml")
    shown = PAGE.partition("$ buildslots batch plan.toml\n")[2].partition("```")[0]
    times = re.compile(r"[\d.]+ s")
    assert times.sub("N s", done.stdout) == times.sub("N s", shown)
    assert os.listdir("public") == ["index.html"]


def test_the_stream(run: Pool, work: Path) -> None:
    """Each line is a task."""
    (work / "tasks.ndjson").write_text(example("stream"))
    for name in "ab":
        (work / f"{name}.log").write_text(name)
    assert batch(run, "-j1", "tasks.ndjson") == (0, ["ok a", "ok b"])
    assert sorted(os.listdir()) == ["a.log", "a.log.gz", "b.log", "b.log.gz", "tasks.ndjson"]


def test_the_library(run: Pool) -> None:
    """Coroutine or not, the examples print what their comments say."""
    done = run.run(script("python"), "-c", example("library"))
    assert (done.returncode, done.stderr) == (0, "")
    *fetched, last = done.stdout.splitlines()
    assert sorted(fetched) == ["one ok one on attempt 1", "two ok two on attempt 1"]
    assert last == "sh -c echo done ok None"
    done = run.run(script("python"), "-c", example("run-batch"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "{'ok': 3} [1, 2, 4]\n", "")


def test_the_other_pages(run: Pool) -> None:
    """What the library's page shows of batches runs too."""
    text = (HELP / "library.md").read_text(encoding="utf-8")
    done = run.run(script("python"), "-c", f"{example('batch', text)}print(report.counts)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{'ok': 2}\n", "")


# The recipes.


class Parts(http.server.BaseHTTPRequestHandler):
    """A server that asks the first one for a rest."""

    asked = 0

    def do_GET(self) -> None:
        """The path itself, or 429."""
        type(self).asked += 1
        body = self.path.encode()
        self.send_response(429 if self.asked == 1 else 200)
        self.send_header("Retry-After", "0.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of a server of parts, while the block runs."""
    Parts.asked = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Parts) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def test_toolchain_install(run: Pool, work: Path) -> None:
    """All of it and then the links; or, when one checksum is wrong, nothing at all."""
    names = ("go", "node", "zig")
    with server() as address:
        parts = {
            name: {"url": f"{address}/{name}", "sha256": hashlib.sha256(f"/{name}".encode()).hexdigest()}
            for name in names
        }
        right = parts["zig"]["sha256"]
        for sha256, status in (("0" * 64, 1), (right, 0)):
            parts["zig"]["sha256"] = sha256
            (work / "parts.json").write_text(json.dumps(parts))
            done = run.run(script("python"), "-c", example("toolchain"))
            assert done.returncode == status, done.stderr
            assert "verify: is_right() returned False" in done.stderr or not status
            tools = work / "tools"
            assert sorted(os.listdir(tools)) == ([] if status else list(names))
    assert sorted(os.listdir("bin")) == list(names)
    assert [(work / "bin" / name).read_text() for name in names] == [f"/{name}" for name in names]


def test_tool_audit(run: Pool) -> None:
    """What is not there is unknown, and the others are not."""
    done = run.run(script("python"), "-c", example("audit"))
    assert (done.returncode, done.stderr) == (0, "")
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert found["git"].startswith("git version")
    assert found["make"].startswith("GNU Make")
    assert found["no-such-tool"].startswith("unknown: FileNotFoundError")


def wheel(directory: Path, name: str) -> None:
    """A wheel with one module, by the binary distribution format of the packaging specifications."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


def test_bulk_install(run: Pool, work: Path) -> None:
    """With one package missing nothing is installed; with all of them everything."""
    run.environ |= {
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    (work / "install.toml").write_text(example("install"))
    wheel(work / "wheels", "base")
    assert batch(run, "install.toml") == (3, ["ok base", "failed extra", "undone base"])
    assert os.listdir("lib") == []
    wheel(work / "wheels", "extra")
    assert batch(run, "install.toml") == (0, ["ok base", "ok extra"])
    assert sorted(os.listdir("lib")) == ["base", "extra"]
    assert (work / "lib" / "base" / "base.py").exists()


def git(run: Pool, *args: str) -> None:
    """Run git, which has to succeed."""
    done: subprocess.CompletedProcess[str] = run.run("git", "-c", "init.defaultBranch=main", *args)
    assert done.returncode == 0, done.stderr


def test_repository_sync(run: Pool, work: Path) -> None:
    """Those that can be are brought up to date; one without its origin fails, and so does the batch."""
    git(run, "init", "-q", "origin")
    git(run, "-C", "origin", "commit", "-q", "--allow-empty", "-m", "one")
    for name in ("a", "b"):
        git(run, "clone", "-q", "origin", f"src/{name}")
    git(run, "-C", "origin", "commit", "-q", "--allow-empty", "-m", "two")
    done = run.run("sh", "-c", example("sync"))
    assert (done.returncode, sorted(told(done.stdout))) == (0, ["ok src/a", "ok src/b"])
    count = run.run("git", "-C", "src/a", "rev-list", "--count", "HEAD")
    assert count.stdout == "2\n"
    git(run, "-C", "src/a", "remote", "set-url", "origin", str(work / "gone"))
    done = run.run("sh", "-c", example("sync"))
    assert (done.returncode, sorted(told(done.stdout))) == (1, ["failed src/a", "ok src/b"])


def test_skill_apply(run: Pool, work: Path) -> None:
    """Applied once, then unchanged; what cannot be synced is not applied."""
    run.environ["SOURCES"] = str(work / "sources")
    (work / "skills.toml").write_text(example("skills"))
    assert [phase for phase, _ in load_plan("skills.toml").levels()] == ["sync", "apply"]
    assert batch(run, "skills.toml") == (1, ["failed sync lint", "skipped apply lint"])
    git(run, "init", "-q", "sources/lint")
    (work / "sources" / "lint" / "SKILL.md").write_text("lint\n")
    git(run, "-C", "sources/lint", "add", "SKILL.md")
    git(run, "-C", "sources/lint", "commit", "-q", "-m", "one")
    assert batch(run, "skills.toml") == (0, ["ok sync lint", "ok apply lint"])
    assert (work / "skills" / "lint" / "SKILL.md").read_text() == "lint\n"
    assert batch(run, "--resume", "skills.toml") == (0, ["unchanged sync lint", "unchanged apply lint"])
