"""`buildslots status --format prometheus`: what Prometheus's own reader of that format finds in it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from builds import Pool, script, wait_until
from prometheus_client.parser import text_string_to_metric_families

import buildslots
from buildslots.settings.places import state_dir

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

GAUGES = (
    "cap held_slots running_builds overflow_builds waiting_builds longest_wait_seconds paused rules_problem"
)


def read(text: str) -> Samples:
    """The samples in `text`, by name and labels; each metric is one group with help and type."""
    families = list(text_string_to_metric_families(text))
    assert text.endswith("\n")
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.samples for family in families)
    assert {family.type for family in families} <= {"gauge", "counter", "histogram"}
    samples = [sample for family in families for sample in family.samples]
    found = {(s.name.removeprefix("buildslots_"), frozenset(s.labels.items())): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def metrics(pool: Pool, *options: str, **environ: str) -> Samples:
    result = pool.run(script("buildslots"), "status", "--format", "prometheus", *options, environ=environ)
    assert (result.returncode, result.stderr) == (0, "")
    return read(result.stdout)


def of(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples with that name and at least those labels."""
    return sum(
        value for (its, about), value in samples.items() if its == name and labels.items() <= set(about)
    )


def test_a_busy_pool(pool: Pool) -> None:
    """The gauges tell of this moment, the counters of all the builds that there were."""
    first = pool.build("-n1")
    first.started()
    beyond = pool.build("-n1", "-t0.1")
    beyond.started()
    pool.slot_run("-n1", "-t0.1", "--on-timeout", "fail", "true")
    waiter = pool.queued("-n1", "--priority", "high")
    wait_until(lambda: of(metrics(pool), "builds_queued_total") == 3, "the line about the wait")
    seen = metrics(pool, MAX_CONCURRENT_BUILDS="1")
    assert {name for name, _ in seen} >= set(GAUGES.split())
    assert [of(seen, name) for name in GAUGES.split()[:5]] == [1, 2, 2, 1, 1]
    assert of(seen, "longest_wait_seconds") > 0
    assert of(seen, "paused") == of(seen, "rules_problem") == 0
    assert of(seen, "builds_queued_total", priority="high") == 1
    assert of(seen, "builds_started_total") == of(seen, "builds_started_total", priority="normal") == 2
    assert (of(seen, "builds_overflow_total"), of(seen, "builds_gave_up_total", cause="timeout")) == (1, 1)
    waiter.process.send_signal(signal.SIGTERM)
    waiter.process.wait()
    assert first.finish() == 0
    assert beyond.finish(3) == 3
    pool.slot_run("sh", "-c", "kill -9 $$")
    after = metrics(pool)
    assert of(after, "held_slots") == of(after, "waiting_builds") == of(after, "longest_wait_seconds") == 0
    results = [of(after, "builds_ended_total", result=result) for result in ("ok", "failed", "killed")]
    assert results == [1, 1, 1]
    assert of(after, "builds_gave_up_total", cause="interrupted", priority="high") == 1
    assert of(after, "run_seconds_total") > 0
    assert of(after, "builds_started_total") == of(after, "wait_seconds_count") == 3
    assert of(after, "wait_seconds_bucket", le="+Inf", priority="normal") == 3
    assert of(after, "wait_seconds_sum") >= 0.1


def test_a_new_pool_has_counters(pool: Pool) -> None:
    """They are 0 before the first build: Prometheus sees no increase where a counter appears with 1."""
    pool.slot_run("-p", "link", "true")
    seen = metrics(pool)
    assert (
        "builds_queued_total",
        frozenset({"pool": "default", "dir": str(pool.dir), "priority": "normal"}.items()),
    ) in seen
    assert not any(value for (name, _), value in seen.items() if name != "cap")


def test_several_pools(pool: Pool) -> None:
    """Each has its series; a pool alone has its own."""
    pool.slot_run("true")
    pool.slot_run("-p", "link", "true")
    both, one = metrics(pool, "--all"), metrics(pool, "link")
    for name in ("builds_ended_total", "cap"):
        assert of(both, name) == of(both, name, pool="default") + of(both, name, pool="link")
    assert of(both, "builds_ended_total") == 2
    assert {dict(about)["dir"] for _, about in one} == {str(pool.dir / "pools" / "link")}
    assert one.items() <= both.items()


def test_a_pause_and_rules_that_cannot_be_read(pool: Pool) -> None:
    """Both are worth an alert; what is wrong stands on stderr."""
    assert pool.run(script("buildslots"), "pause").returncode == 0
    assert of(metrics(pool), "paused") == 1
    (pool.dir / "rules").write_text("torn")
    result = pool.run(script("buildslots"), "status", "--format", "prometheus")
    assert of(read(result.stdout), "rules_problem") == 1
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "read_as"),
    [('a"b\\n', 'a"b\\n'), ("a\nb\r\x1b[2J", "a?b??[2J"), ("ü 漢\\", "ü 漢\\"), ("\udcff\u202e", "??")],
)
def test_any_directory(pool: Pool, name: str, read_as: str) -> None:
    """It is escaped as the format has it, in UTF-8 whatever the locale, and steers no terminal."""
    directory = pool.dir.parent / name
    environ = {"BUILD_SLOTS_DIR": str(directory), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    pool.slot_run("true", environ=environ)
    build = pool.popen(script("buildslots"), "status", "--format", "prometheus", environ=environ)
    text = build.process.communicate()[0].decode()
    assert {Path(dict(about)["dir"]).name for _, about in read(text)} == {read_as}
    assert of(read(text), "builds_ended_total", result="ok") == 1


def test_without_a_journal(pool: Pool) -> None:
    """Gauges, and nothing is made: if there is none, and if it is off by now."""
    state = Path(state_dir(os.environ))
    assert {name for name, _ in metrics(pool)} == set(GAUGES.split())
    assert not state.exists()
    pool.slot_run("true")
    seen = metrics(pool, BUILD_SLOTS_JOURNAL="off")
    assert {name for name, _ in seen} == set(GAUGES.split())
    assert [file.name for file in state.iterdir()] == ["journal.jsonl"]


def test_the_other_formats_by_the_same_option(pool: Pool) -> None:
    """`--format json` is `--json`, and `--format text` what is shown anyway."""
    pool.slot_run("true")
    for usual, named in ((), ("--format", "text")), (("--json",), ("--format", "json")):
        said = [pool.run(script("buildslots"), "status", *options) for options in (usual, named)]
        assert said[0].stdout == said[1].stdout
        assert (said[1].returncode, said[1].stderr) == (0, "")


def test_the_line_for_the_crontab(pool: Pool, tmp_path: Path) -> None:
    """It replaces the file as a whole, and leaves no other behind, also if there are no metrics."""
    page = Path(buildslots.__file__).parent / "help" / "views-and-json.md"
    found = re.search(r"<!-- metrics cron -->\n```\n(?:\* ){5}(.*)\n```", page.read_text(encoding="utf-8"))
    assert found
    line = found[1].replace("/var/lib/node_exporter", str(tmp_path / "metrics"))
    line = line.replace("~/.local/bin/buildslots", script("buildslots"))
    (tmp_path / "metrics").mkdir()
    for _ in range(2):
        pool.slot_run("true")
        result = pool.run("sh", "-c", line)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    (file,) = (tmp_path / "metrics").iterdir()
    before = file.read_text()
    assert file.name == "buildslots.prom"
    assert of(read(before), "builds_ended_total") == 2
    no_pool = {"BUILD_SLOTS_DIR": str(tmp_path / "metrics" / file.name)}
    assert pool.run("sh", "-c", line, environ=no_pool).stderr
    assert [(file.name, file.read_text()) for file in (tmp_path / "metrics").iterdir()] == [
        (file.name, before)
    ]
