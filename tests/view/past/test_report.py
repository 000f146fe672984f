"""`buildslots report` as people see it: a real browser draws the page, in several widths."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from browsers import browse
from builds import Pool, script

from buildslots.disk import records
from buildslots.settings.places import state_dir

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.linux  # where the CI has a browser on its path
DAY_S = 86400
HERE = records.parse(records.record(records.about([], cap=1, nonce=""))) or {}


def journal(pool: Pool, builds: list[dict[str, Any]]) -> None:
    """Write a journal: of each build when it `came`, `began`, how long it `ran`, and what else is known."""
    directory = state_dir({**os.environ, **pool.environ})
    os.makedirs(directory, exist_ok=True)
    lines = []
    for number, known in enumerate(builds):
        build = {"ran": None, "slot": 0, "pool": "default", "status": 0, "pid": 2**30, **known}
        common = {
            "v": 1,
            "t": 0.0,
            "event": "",
            "id": str(number),
            "pool": build["pool"],
            "dir": str(pool.dir),
        }
        common |= {"pid": build["pid"], "program": "make", "cwd": "/home/me", "load": 1.5, "cap": 2}
        common |= {name: build[name] for name in ("program", "batch") if name in build}
        common |= {name: HERE[name] for name in ("host", "pidns", "start") if name in HERE}
        if build["began"] > build["came"]:
            lines.append(common | {"t": build["came"], "event": "queued"})
        if build["pid"] != os.getpid():
            common.pop("start", None)
        waited = {"waited_s": build["began"] - build["came"], "slot": build["slot"]}
        event = "fell_through" if build["slot"] > 1 else "started"
        lines.append(common | {"t": build["began"], "event": event, **waited})
        if build["ran"] is not None:
            end = {"ran_s": build["ran"], "status": build["status"], "slot": build["slot"]}
            end |= {name: build[name] for name in ("cpu_s", "max_rss") if name in build}
            lines.append(common | {"t": build["began"] + build["ran"], "event": "ended", **end})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    with open(os.path.join(directory, "journal.jsonl"), "w", encoding="utf-8") as file:
        file.write(text)


def drawn(pool: Pool, *, since: str = "none", **options: Any) -> str:
    """The document of the report, once it is drawn."""
    file = pool.dir.parent / "report.html"
    result = pool.run(script("buildslots"), "report", str(file), "--since", since)
    assert (result.returncode, result.stderr) == (0, "")
    return browse(file, **options)


def week(pool: Pool) -> None:
    """5,900 builds in a week on two slots, some of which waited, failed, or ran as overflow; in two pools."""
    first, builds = time.time() - 7 * DAY_S, []
    for number in range(5900):
        came = first + number * 7 * DAY_S / 5900
        waited = 30.0 if number % 3 == 0 else 0.0
        slot = 2 if number % 500 == 0 else number % 2
        build = {"came": came, "began": came + waited, "ran": 60.0, "slot": slot, "status": number % 100 == 1}
        builds.append(
            build | {"pool": "link" if number % 10 == 9 else "default", "status": int(build["status"])}
        )
    journal(pool, builds)


def bars(page: str) -> list[tuple[float, str]]:
    """The width and the colour of each bar."""
    found = re.findall(r'class="bar"[^>]*width="([\d.]+)"[^>]*fill="var\(--(\w+)\)"', page)
    return [(float(width), colour) for width, colour in found]


@pytest.mark.parametrize("width", [1280, 400])
def test_a_week_of_builds_is_legible(pool: Pool, width: int) -> None:
    """Builds that are narrower than a pixel become one bar a pixel, whose height says how busy that was."""
    week(pool)
    page = drawn(pool, width=width)
    seen = bars(page)
    assert {colour for _, colour in seen} == {"good", "bad", "over", "wait"}
    lanes = 2 * 3 + 2  # of two pools, and their lines
    assert 200 < len(seen) < lanes * width  # no more than there are pixels, however many builds
    heights = {float(h) for h in re.findall(r'height="([\d.]+)" rx="0" fill="var\(--good\)"', page)}
    assert len(heights) > 3  # it differs where more was built
    assert page.count('class="load"') == 1  # once, and not in each pool
    assert page.count("<h2>Load of the machine</h2>") == 1


def test_labels_in_a_narrow_window(pool: Pool) -> None:
    """At 400 pixels the labels take a fifth of them, and none of the texts reaches into its lane."""
    week(pool)
    measure = """
      let far = 0, wide = 0;
      for (const text of document.querySelectorAll("svg text")) {
        if (text.getAttribute("x") === "0") far = Math.max(far, text.getBBox().width);
      }
      for (const lane of document.querySelectorAll(".lane")) wide = Math.max(wide, lane.x.baseVal.value);
      document.title = `far ${far} lane ${wide} over ${document.documentElement.scrollWidth - innerWidth}`;
    """
    page = drawn(pool, width=400, then=measure)
    found = re.search(r"<title>far ([\d.]+) lane (\d+) over (-?\d+)</title>", page)
    assert found, page[:500]
    far, lane, over = map(float, found.groups())
    assert (20 < far < lane, lane <= 80, over <= 0) == (True, True, True), found[0]


def test_host_clock_and_legend(pool: Pool) -> None:
    """The host's name, 24 hours in any language, and in the legend what is there: builds that run, too."""
    now = time.time()
    noon = now - now % DAY_S - DAY_S / 2
    journal(
        pool,
        [
            {"came": noon + 7200, "began": noon + 7200, "ran": 60.0},
            {"came": now - 9, "began": now - 9, "ran": None, "slot": 1, "pid": os.getpid()},
        ],
    )
    page = drawn(pool)
    assert f"<h1>Build slots on {platform.node()}</h1>" in page
    visible = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"\d\s*[AP]M\b|>24:|\d/\d", visible)
    legend = re.findall(r"</i>([^<]*)</span>", page)
    assert legend == ["succeeded, or its status is not known", "runs now"]
    assert "run" in {colour for _, colour in bars(page)}


def test_good_news_gets_no_stripe(pool: Pool) -> None:
    """Only what somebody should do is marked."""
    now = time.time()
    journal(pool, [{"came": now - 90, "began": now - 90, "ran": 60.0}])
    assert re.search(r'<p class="advice fine">Nothing to change', drawn(pool))
    many = [{"came": now - 900, "began": now - 600, "ran": 60.0, "slot": 2 + n} for n in range(3)]
    journal(pool, many)
    assert re.search(r'<p class="advice">3 builds', drawn(pool))


KEY = "svg.dispatchEvent(new KeyboardEvent('keydown', {key: %r, cancelable: true}));"
POINT = "%s.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: 300, clientY: 90}));"


def test_keyboard_and_tooltips(pool: Pool) -> None:
    """Keys move, zoom, and go from build to build; waits tell about themselves as runs do."""
    now = time.time()
    journal(pool, [{"came": now - 900, "began": now - 600, "ran": 60.0, "status": 3}])

    def tip(*actions: str) -> str:
        page = drawn(pool, then="const svg = document.querySelector('svg');" + "".join(actions))
        return re.findall(r'<div id="tip"[^>]*>([^<]*)</div>', page)[0]

    assert "waited 5 min 0 s since " in tip(KEY % "n")
    assert "exit status 3" in tip(KEY % "n", KEY % "n")
    assert "cores" not in tip(KEY % "n", KEY % "n")
    assert "waited 5 min 0 s since " in tip(KEY % "+", KEY % "ArrowLeft", KEY % "n", KEY % "n", KEY % "p")
    assert "waited 5 min 0 s since " in tip(POINT % "document.querySelector('[fill=\"var(--wait)\"]')")
    used = {"cpu_s": 78.0, "max_rss": 3 * 2**29}
    journal(pool, [{"came": now - 900, "began": now - 600, "ran": 60.0, "status": 3, **used}])
    assert "1.3 cores on average, processes of at most 1.5 GiB" in tip(KEY % "n", KEY % "n")
    page = drawn(pool)
    assert page.count('tabindex="0"') == 2  # the pool's chart and the load's can be reached by Tab


def test_a_crowd_that_waits(pool: Pool) -> None:
    """More than fit as bars are drawn as one hill, which tells how many waited and for what."""
    now = time.time()
    crowd = [{"came": now - 900, "began": now - 600 + n, "ran": 1.0} for n in range(40)]
    journal(pool, crowd)
    hill = "const bars = document.querySelectorAll('[fill=\"var(--wait)\"]');"
    page = drawn(pool, then=hill + POINT % "bars[bars.length >> 1]")
    assert "at most 40 waited" in page
    assert (
        "40 builds\n40 \N{MULTIPLICATION SIGN} make"
        in re.findall(r'<div id="tip"[^>]*>([^<]*)</div>', page)[0]
    )
    height = max(int(height) for height in re.findall(r'<svg [^>]*height="(\d+)"', page))
    assert height < 300


UNFOLD = """
for (const details of document.querySelectorAll("details")) {
  details.open = true;
  details.dispatchEvent(new Event("toggle"));
}
"""


def rows(page: str) -> list[str]:
    """The labels of the charts."""
    return re.findall(r'<text x="0"[^>]*>([^<]*)</text>', page)


def run_of(name: str, began: float, tasks: int) -> list[dict[str, Any]]:
    """A batch that began then: a task each second, which waits one and runs for two; the first one fails."""
    told = {"batch": time.strftime(f"{name}-%Y%m%d-%H%M%S", time.localtime(began)), "ran": 2.0}
    return [
        told | {"came": began + n, "began": began + n + 1, "program": f"<b>task {n}", "status": int(not n)}
        for n in range(tasks)
    ]


def test_batches_unfold(pool: Pool) -> None:
    """A heading for each, the last one first; behind it a row for each task, with all its attempts."""
    began = time.time() - 600
    first, second = run_of("install", began, 3), run_of("audit", began + 60, 2)
    again = {**first[0], "came": began + 9, "began": began + 9, "status": 0}
    journal(pool, [*first, again, *second, {"came": began, "began": began, "ran": 1.0, "slot": 1}])
    page = drawn(pool)
    headings = re.findall(r"<summary>([^<]*) <small>([^<]*)</small></summary>", page)
    assert headings == [
        (f"batch {second[0]['batch']}", "2 builds, 1 failed, 4 s"),
        (f"batch {first[0]['batch']}", "4 builds, 1 failed, 11 s"),
    ]
    folded = ["line", "slot 0", "slot 1", "load average"]
    assert rows(page) == folded
    page = drawn(pool, then=UNFOLD)
    tasks = [f"&lt;b&gt;task {n}" for n in (0, 1, 0, 1, 2)]
    assert rows(page) == [*folded[:3], *tasks, folded[3]]
    assert [colour for _, colour in bars(page)].count(
        "wait"
    ) == 2 * 5  # in the pool's line, and in its own row
    assert page.count("<details open") == 2
    assert (
        page.count('tabindex="0"') == 4
    )  # each chart can be reached by Tab; headings and buttons can anyway


def test_a_large_batch_shows_what_is_in_sight(pool: Pool) -> None:
    """A hundred rows at most, however many tasks; the button shows the time of the batch alone."""
    began = time.time() - 3 * DAY_S
    journal(pool, [*run_of("audit", began, 300), {"came": began + DAY_S, "began": began + DAY_S, "ran": 1.0}])
    page = drawn(pool, then=UNFOLD)
    assert len([row for row in rows(page) if "task" in row]) == 101
    assert "… and 200 more tasks: zoom in" in rows(page)
    assert max(width for width, _ in bars(page)) < 3
    zoom = "document.querySelector('button').click(); const svg = document.querySelector('details svg');"
    page = drawn(pool, then=UNFOLD + zoom + KEY % "n")
    assert max(width for width, _ in bars(page)) > 5
    (text,) = re.findall(r'<div id="tip"[^>]*>([^<]*)</div>', page)
    assert text.splitlines()[0] == "&lt;b&gt;task 0"
    assert re.fullmatch(r"batch audit-\d{8}-\d{6}", text.splitlines()[1])


def test_many_batches_are_behind_one_heading(pool: Pool) -> None:
    """But for the last twenty."""
    began = time.time() - DAY_S
    journal(pool, [build for n in range(23) for build in run_of("audit", began + 60 * n, 1)])
    page = drawn(pool)
    assert page.count("<summary>") == 24
    assert page.index("3 earlier batches") > page.index(run_of("audit", began + 60 * 3, 1)[0]["batch"])


def test_a_page_without_builds(pool: Pool, tmp_path: Path) -> None:
    """It says so, and draws nothing."""
    del tmp_path
    page = drawn(pool)
    assert "The journal has no builds of this time." in page
    assert page.count("<svg") == 0
