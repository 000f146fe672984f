"""The manual: README as its front page, `buildslots help`, `--help` and the man pages."""

from __future__ import annotations

import io
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script, wait_until
from rich.console import Console

import buildslots
from buildslots.view import man
from buildslots.view.help import formatted
from buildslots.view.main import MODULES
from buildslots.view.options import TOPICS
from buildslots.view.usage import commands

if TYPE_CHECKING:
    from terminals import Terminal

ROOT = Path(__file__).parents[2]
PACKAGE = Path(buildslots.__file__).parent
PAGES = {topic: PACKAGE / "help" / f"{topic}.md" for topic in TOPICS}
PAGES["protocol"] = PACKAGE / "disk" / "PROTOCOL.md"
COMMANDS = [command.name for command in commands()]


def anchors(page: Path) -> set[str]:
    """The places in a page that GitHub can link to: its headings in small letters, blanks as hyphens."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def links(page: Path) -> list[str]:
    """The targets of a page's links that lie in the repository."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)


def test_the_front_page_is_short() -> None:
    """Whoever has a minute gets to its end."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_front_page_leads_to_every_page() -> None:
    """No page is without a topic or a link, and no topic without a page."""
    assert {page.stem for page in (PACKAGE / "help").glob("*.md")} == set(TOPICS) - {"protocol"}
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(ROOT / "README.md")}
    checkout = {ROOT / "buildslots" / page.relative_to(PACKAGE) for page in PAGES.values()}
    assert checkout - linked == set()


def test_every_command_has_its_module() -> None:
    """A command of the parser that the entry point does not know would end in a traceback."""
    assert [name for name in COMMANDS if name] == list(MODULES)
    assert all(find_spec(f"buildslots.view.{module}") for module in MODULES.values())


@pytest.mark.parametrize(
    "page", ["README.md", *(f"buildslots/help/{t}.md" for t in TOPICS if t != "protocol")]
)
def test_links_lead_somewhere(page: str) -> None:
    """The file is there, and so is the heading."""
    path = ROOT / page
    assert links(path)
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_example_in_python(pool: Pool, tmp_path: Path) -> None:
    """What README shows runs as it stands."""
    found = re.search(
        r"^<!-- example python -->\n```python\n(.*?)^```$",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert found
    (tmp_path / "Makefile").write_text("build:\n\t@slot-run sh -c 'echo nested in $$BUILD_SLOT'\n")
    environ = {"PATH": os.pathsep.join([os.path.dirname(script("slot-run")), os.environ["PATH"]])}
    result = pool.run(script("python"), "-c", found[1], environ=environ, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    # In either order: Python writes into a pipe when it ends.
    nested, own = sorted(result.stdout.splitlines())
    assert (nested, own.partition(" after ")[0]) == ("nested in 0", "slot 0")


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_through_a_pipe(pool: Pool, topic: str) -> None:
    """The Markdown as it is, so that what is in it can be copied; without the marks for the tests."""
    result = pool.run(script("buildslots"), "help", topic)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("# ")
    assert "<!--" not in result.stdout
    expected = [line for line in PAGES[topic].read_text().splitlines() if not line.startswith("<!--")]
    assert result.stdout.splitlines() == expected


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_on_a_terminal(topic: str, width: int) -> None:
    """Nothing of it is cut, goes over the edge or links to a file that a terminal cannot open."""
    text = PAGES[topic].read_text(encoding="utf-8")
    terminal = Console(file=io.StringIO(), width=width, height=50, force_terminal=True, color_system=None)
    page = formatted(text, terminal)
    assert max(map(len, page.splitlines())) <= width
    assert page.count("…") == text.count("…")
    assert ".md#" not in page
    assert "](" not in page


def test_a_long_page_is_shown_in_less(terminal: Terminal) -> None:
    """If nothing else is chosen; q ends it, and the beginning stays on the screen."""
    terminal.resize(80, 20)
    terminal.type(f"unset LESS PAGER; {script('buildslots')} help security")
    wait_until(lambda: terminal.lines()[-1:] == [":"], "less")
    assert terminal.lines()[0].strip() == "Security"
    assert 4 in terminal.styles()  # the underlined heading
    terminal.keys("C-c")  # by which one leaves a search in less, and not less

    def is_at_the_end() -> bool:
        terminal.keys("G")  # less drops what is typed before it has heard of Ctrl-C
        return any(line.startswith("(END)") for line in terminal.lines())

    terminal.wait_until(is_at_the_end, "the end")
    terminal.keys("q")
    terminal.type_at_prompt("echo status $?")
    terminal.wait_for("status 0")


@pytest.mark.parametrize("pager", ["tail -n 1", "no-such-command"])
def test_a_long_page_is_shown_in_the_user_s_pager(terminal: Terminal, pager: str) -> None:
    """A command line of the shell; where it is not found, the page stands on the screen all the same."""
    terminal.resize(80, 20)
    terminal.type(f"PAGER='{pager}' {script('buildslots')} help security")
    terminal.wait_until(lambda: any(line.endswith("trick.") for line in terminal.lines()), "the last line")
    terminal.type_at_prompt("echo status $?")
    terminal.wait_for("status 0")


def test_a_short_page_is_not(terminal: Terminal) -> None:
    """What fits stands there, and the prompt below it."""
    terminal.resize(100, 100)
    terminal.type(f"PAGER=false {script('buildslots')} help pools")
    wait_until(lambda: terminal.lines()[-1:] == ["$"] and len(terminal.lines()) > 20, "a page and the prompt")


def test_topics(pool: Pool) -> None:
    """Without one they are listed, in lines that fit a terminal; a command says what it takes."""
    result = pool.run(script("buildslots"), "help")
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert (result.returncode, listed) == (0, list(TOPICS))
    assert max(map(len, result.stdout.splitlines())) < 80
    assert pool.run(script("buildslots"), "help", "status").stdout == (
        pool.run(script("buildslots"), "status", "--help").stdout
    )


@pytest.mark.parametrize(
    ("topic", "nearest"),
    [
        ("recipe", "the nearest: recipes"),
        ("JSON", "the nearest: views-and-json"),
        ("staus", "the nearest: status"),
        ("xyzzy", "`buildslots help` lists the pages"),
        ("", "`buildslots help` lists the pages"),
        ("../recipes", "the nearest: recipes"),
        ("\x1b[2J", "`buildslots help` lists the pages"),
    ],
)
def test_an_unknown_topic(pool: Pool, topic: str, nearest: str) -> None:
    """One sentence says so and names the nearest ones."""
    result = pool.run(script("buildslots"), "help", topic)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"buildslots: there is no help on {topic!r}; {nearest}\n"


@pytest.mark.parametrize("command", ["slot-run", *COMMANDS])
def test_help_fits_a_terminal(pool: Pool, command: str) -> None:
    """No line is longer than 80 columns."""
    args = ["slot-run"] if command == "slot-run" else ["buildslots", *command.split()]
    result = pool.run(script(args[0]), *args[1:], "--help", environ={"COLUMNS": "80"})
    assert result.returncode == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_man_pages_are_up_to_date() -> None:
    """`python -m buildslots.view.man` writes them, from the tables that the parsers are made of."""
    for name, text in man.pages().items():
        assert (ROOT / "buildslots" / "help" / name).read_text(encoding="utf-8") == text
