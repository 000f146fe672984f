"""`buildslots setup`: what it writes into the files of agents, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from builds import script
from setups import FILES, GOLDEN, done, home_in, left, put, refused, setup

from buildslots.agents.setup import hooks, plan
from buildslots.agents.setup.known import AGENTS
from buildslots.agents.setup.refused import RefusedError
from buildslots.settings.places import shims_dir
from buildslots.view import options

if TYPE_CHECKING:
    from builds import Pool
    from terminals import Terminal

CASES = sorted(path.stem for path in GOLDEN.glob("*.after"))


@pytest.fixture
def home() -> Path:
    """A home with a buildslots that stays, and no agent."""
    return home_in(Path(os.environ["HOME"]))


@pytest.mark.parametrize("case", CASES)
def test_golden_files(pool: Pool, home: Path, case: str) -> None:
    """Before and after; twice is once; taking it out restores every byte, and nothing stays behind."""
    agent = case.partition("-")[0]
    before = GOLDEN / f"{case}.before"
    path = put(home, agent, before.read_bytes()) if before.exists() else home / FILES[agent]
    after = (GOLDEN / f"{case}.after").read_bytes().replace(b"@HOME@", str(home).encode())
    done(pool, agent)
    assert path.read_bytes() == after
    about = path.stat()
    assert "is set up already" in done(pool, agent)
    assert (path.read_bytes(), path.stat().st_ino) == (after, about.st_ino)
    assert setup(pool, agent, "--status").returncode == 0
    done(pool, agent, "--uninstall")
    if case.endswith("-stale"):  # what was in it of ours stays out
        assert hooks.entries(json.loads(path.read_text())) == []
        return
    assert left(path.parent) == ([path.name] if before.exists() else [])
    if before.exists():
        assert path.read_bytes() == before.read_bytes()
    assert setup(pool, agent, "--status").returncode == 1


def test_every_agent_and_shape_has_a_golden_file() -> None:
    """A file that is not there tests nothing."""
    assert {case.partition("-")[0] for case in CASES} == set(FILES)
    assert len(CASES) == 11


def test_the_parser_and_completion_know_what_the_agents_are() -> None:
    """They do not import the table."""
    assert tuple(AGENTS) == options.AGENTS
    assert {mode for agent in AGENTS.values() for mode in agent.modes} == set(options.AGENT_MODES)
    assert set(hooks.HOOKED) == set(FILES)


def test_what_is_shown_is_a_diff_and_nothing_is_written(pool: Pool, home: Path) -> None:
    """With --dry-run, and where there is no terminal to ask on."""
    path = put(home, "claude", '{\n  "model": "\\u001b[2J"\n}\n')
    before = path.read_bytes()
    result = setup(pool, "claude", "--dry-run")
    assert result.returncode == 0
    assert result.stdout.splitlines()[:4] == [
        "--- ~/.claude/settings.json",
        "+++ ~/.claude/settings.json",
        "@@ -1,3 +1,17 @@",
        " {",
    ]
    assert "\x1b" not in result.stdout
    result = setup(pool, "claude", stdin=subprocess.DEVNULL)
    assert result.returncode == 1
    assert result.stdout.endswith("not done: there is no terminal to ask on, and no --yes\n")
    assert (path.read_bytes(), left(path.parent)) == (before, [path.name])


def test_it_asks_on_a_terminal(terminal: Terminal, home: Path) -> None:
    """Only a yes writes."""
    command = f"{script('buildslots')} setup cursor; echo status $?"
    terminal.type(command)
    terminal.wait_for("Write it? [y/N]")
    terminal.type("n")
    terminal.wait_for("status 1")
    assert not (home / ".cursor").exists()
    terminal.clear()
    terminal.type(command)
    terminal.wait_for("Write it? [y/N]")
    terminal.type("y")
    terminal.wait_for("status 0")
    assert (home / FILES["cursor"]).exists()


def test_others_entries_stay_when_they_came_later(pool: Pool, home: Path) -> None:
    """Then only our entries are taken out, and what the file was before is still kept."""
    path = put(home, "claude", (GOLDEN / "claude-others.before").read_bytes())
    done(pool, "claude")
    path.write_text(path.read_text().replace('"opus"', '"sonnet"'))
    said = done(pool, "claude", "--uninstall")
    assert "as it was before: ~/.claude/settings.json.before-buildslots" in said
    assert path.read_text() == (GOLDEN / "claude-others.before").read_text().replace('"opus"', '"sonnet"')
    kept = path.with_name("settings.json.before-buildslots")
    assert kept.read_bytes() == (GOLDEN / "claude-others.before").read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_another_mode_takes_the_place_of_the_first(pool: Pool, home: Path) -> None:
    """And all of it goes with one uninstall."""
    path = put(home, "codex", (GOLDEN / "codex-flat.before").read_bytes())
    done(pool, "codex")
    done(pool, "codex", "--mode", "deny")
    assert path.read_text().count("buildslots hook codex") == 1
    assert f"{home}/.local/bin/buildslots hook codex --mode deny || true" in path.read_text()
    done(pool, "codex", "--uninstall")
    assert path.read_bytes() == (GOLDEN / "codex-flat.before").read_bytes()


def test_a_link_of_the_user_is_followed_and_stays(pool: Pool, home: Path) -> None:
    """Dotfiles lie in a repository of their own; the mode of the file stays too."""
    dotfiles = home / "dotfiles"
    dotfiles.mkdir()
    target = dotfiles / "claude.json"
    target.write_text("{}\n")
    target.chmod(0o640)
    path = home / FILES["claude"]
    path.parent.mkdir()
    path.symlink_to("../dotfiles/claude.json")
    done(pool, "claude")
    assert path.is_symlink()
    assert "buildslots hook claude" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    done(pool, "claude", "--uninstall")
    assert (target.read_text(), left(dotfiles)) == ("{}\n", ["claude.json"])


def test_the_status_knows_what_is_stale(pool: Pool, home: Path) -> None:
    """A program that is gone, and an entry that is there twice."""
    assert setup(pool, "--status").returncode == 1
    done(pool, "codex")
    done(pool, "gemini")
    result = setup(pool, "--status")
    assert result.returncode == 0
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:]] == [
        ["codex", "set", "up"],
        ["gemini", "set", "up"],
    ]
    entries = json.loads((home / FILES["codex"]).read_text())
    entries["hooks"]["PreToolUse"] *= 2
    put(home, "codex", json.dumps(entries))
    assert "more than once" in setup(pool, "codex", "--status").stdout
    (home / ".local" / "bin" / "buildslots").unlink()
    result = setup(pool)
    assert "is not there any more" in result.stdout
    assert "`buildslots setup gemini` sets up Gemini CLI, in mode rewrite" in result.stdout


def test_a_project_gets_what_everybody_can_run(pool: Pool, home: Path, tmp_path: Path) -> None:
    """The bare name, which does nothing where there is no buildslots; at the top of the repository."""
    top = tmp_path / "project"
    (top / ".git").mkdir(parents=True)
    (top / "src").mkdir()
    for agent, file in (("claude", ".claude/settings.json"), ("copilot", ".github/hooks/buildslots.json")):
        done(pool, agent, "--project", "--mode", "rewrite", cwd=top / "src")
        line = f"! command -v buildslots >/dev/null || buildslots hook {agent} || true"
        assert json.dumps(line) in (top / file).read_text()
        environ = {"PATH": "/usr/bin:/bin"}
        assert subprocess.run(["sh", "-c", line], env=environ, capture_output=True, check=True).stderr == b""
        assert setup(pool, agent, "--project", "--status", cwd=top).returncode == 0
    assert "leave out --project" in refused(pool, "claude", "--project", "--mode", "shim", cwd=top)
    assert "leave out --project" in refused(pool, "claude", "--project", cwd=home)
    (top / ".codex").mkdir()
    (top / ".codex" / "hooks.json").symlink_to(put(home, "codex", "{}"))
    assert "a link out of the project" in refused(pool, "codex", "--project", cwd=top)
    shutil.rmtree(top / ".codex")
    (top / ".codex").symlink_to(home / ".codex")
    assert "a link out of the project" in refused(pool, "codex", "--project", cwd=top)
    assert (home / FILES["codex"]).read_text() == "{}"


@pytest.mark.parametrize("agent", FILES)
def test_the_hook_that_is_written_never_blocks(pool: Pool, home: Path, agent: str) -> None:
    """Copilot CLI takes every status but 0 for no, the others 2: an older buildslots ends with that."""
    done(pool, agent)
    (_, element), *_ = hooks.entries(json.loads((home / FILES[agent]).read_text()))
    handler = element["hooks"][0] if "hooks" in element else element  # type: ignore[index, operator]
    line = handler.get("bash", handler.get("command"))
    program = home / ".local" / "bin" / "buildslots"
    for text in ("#!/bin/sh\nexit 2\n", "#!/nowhere\n", None):
        program.unlink()
        if text is not None:
            program.write_text(text)
            program.chmod(0o755)
            if agent == "cursor" and "exit 2" in text:
                program.write_text("#!/bin/sh\nexit 1\n")  # see hooks.WITHOUT_SHELL
        else:
            program.symlink_to("gone")
        status = subprocess.run(["sh", "-c", line], capture_output=True, check=False).returncode
        assert status == 0 or (agent == "cursor" and status != 2)


def with_shims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have shims, as `agents.shims` would install them: to be joined with that."""

    def install(said: dict[str, str]) -> list[str]:
        Path(shims_dir(said)).mkdir(parents=True, exist_ok=True)
        return ["make"]

    monkeypatch.setitem(sys.modules, "buildslots.agents.shims", SimpleNamespace(install=install))  # type: ignore[arg-type]


def test_shims_come_with_the_environment_of_a_session(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default for Claude Code and opencode: one entry at the start of a session, or one plugin."""
    environ = dict(os.environ)
    with_shims(monkeypatch)
    at = plan.where(environ, project=False)
    for agent in ("claude", "opencode"):
        mode = plan.default_mode(agent, at)
        assert mode == "shim"
        plan.setting_up(agent, mode, at).write(environ)
        assert plan.status(agent, at).state == plan.SET_UP
        assert not plan.setting_up(agent, mode, at).changes
    said = json.loads((home / FILES["claude"]).read_text())["hooks"]
    assert said == {
        "SessionStart": [
            {
                "hooks": [
                    {
                        "type": "command",
                        "command": f"{home}/.local/bin/buildslots hook claude || true",
                        "timeout": 10,
                    }
                ]
            }
        ]
    }
    Path(shims_dir(environ)).rmdir()
    assert plan.status("claude", at) == plan.Status(
        plan.STALE, str(home / FILES["claude"]), "shim", "the shims are not there"
    )
    for agent in ("claude", "opencode"):
        plan.taking_out(agent, at).write(environ)
        assert plan.status(agent, at).state == plan.MISSING


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node")
def test_the_plugin_puts_the_shims_in_front_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As opencode loads and calls it, says its documentation."""
    environ = dict(os.environ) | {"XDG_DATA_HOME": str(home / 'a "b" ${c}')}
    with_shims(monkeypatch)
    at = plan.where(environ, project=False)
    plan.setting_up("opencode", "shim", at).write(environ)
    path = home / ".config" / "opencode" / "plugins" / "buildslots.js"
    ask = f"""
    const {{ BuildSlots }} = await import({json.dumps(path.as_uri())})
    const hooks = await BuildSlots({{}})
    const output = {{ env: {{ PATH: "/usr/bin" }} }}
    await hooks["shell.env"]({{ cwd: "/" }}, output)
    await hooks["shell.env"]({{ cwd: "/" }}, output)
    console.log(JSON.stringify(output.env))
    """
    command = ["node", "--no-warnings", "--input-type=module", "-e", ask]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {
        "PATH": f"{shims_dir(environ)}:/usr/bin",
        "BUILD_SLOTS_AGENT": "opencode",
    }
    path.write_text("export const Mine = 1\n")
    assert plan.status("opencode", at).state == plan.UNREADABLE
    for change in (plan.taking_out, lambda name, at: plan.setting_up(name, "shim", at)):
        with pytest.raises(RefusedError, match="somebody else has written it"):
            change("opencode", at)
