"""`buildslots config`: what counts, who said so, and the file that it writes."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import script

from buildslots.settings import file
from buildslots.settings.config import OF_CONFIGS, OF_SERVERS
from buildslots.settings.places import config_path

if TYPE_CHECKING:
    from builds import Pool


def config(pool: Pool, *options: str, environ: dict[str, str] | None = None) -> dict[str, tuple[object, str]]:
    """Each setting's value and source."""
    result = pool.run(script("buildslots"), "config", "--json", *options, environ=environ or {})
    assert (result.returncode, result.stderr) == (0, "")
    rows = json.loads(result.stdout)["settings"]
    return {row["setting"]: (row["value"], row["source"]) for row in rows}


@pytest.fixture
def path(pool: Pool) -> Path:
    """Where the config file of the pool's environment would be."""
    return Path(config_path({**os.environ, **pool.environ}))


def test_each_setting_and_who_said_so(pool: Pool, path: Path) -> None:
    """Option, variable, file and default, of the pool that is asked for."""
    path.parent.mkdir(parents=True)
    path.write_text('timeout = "10m"\nmax_load = 16\n[pools.link]\nslots = 1\n')
    seen = config(pool, "link", environ={"BUILD_SLOTS_ON_TIMEOUT": "fail"})
    assert seen["pool"] == ("link", "option")
    assert seen["dir"] == (str(pool.dir / "pools" / "link"), "BUILD_SLOTS_DIR")
    assert seen["slots"] == (1, f"{path}, line 4, key pools.link.slots")
    assert seen["timeout"] == (600, f"{path}, line 1, key timeout")
    assert seen["on_timeout"] == ("fail", "BUILD_SLOTS_ON_TIMEOUT")
    assert seen["max_load"] == (16, f"{path}, line 2, key max_load")
    assert seen["max_pressure"] == (None, "default")
    assert config(pool, environ={"MAX_CONCURRENT_BUILDS": "5"})["slots"] == (5, "MAX_CONCURRENT_BUILDS")
    assert not pool.dir.exists()


def test_a_pool_on_a_server(pool: Pool, path: Path) -> None:
    """What concerns the server is shown for such a pool only."""
    path.parent.mkdir(parents=True)
    url = "unix://builds@/nowhere/r.sock/0/license"
    path.write_text(
        f'tokens = 3\n[pools.license]\nurl = "{url}"\npassword_file = "~/pw"\nalso_local = true\n'
    )
    seen = config(pool, "license", environ={"BUILD_SLOTS_TOKENS": "off"})
    assert seen["url"] == (url, f"{path}, line 3, key pools.license.url")
    assert seen["password_file"] == (
        f"{pool.environ['HOME']}/pw",
        f"{path}, line 4, key pools.license.password_file",
    )
    assert seen["on_unreachable"] == ("local", "default")
    assert seen["also_local"] == (True, f"{path}, line 5, key pools.license.also_local")
    assert seen["plaintext"] == (False, "default")
    assert seen["tokens"] == (0, "BUILD_SLOTS_TOKENS")
    shown = pool.run(script("buildslots"), "config", "license").stdout
    assert re.search(r"^password_file +~/pw +~/.*, line 4", shown, re.MULTILINE)
    assert re.search(r"^also_local +yes ", shown, re.MULTILINE)
    assert re.search(r"^tokens +3 ", shown, re.MULTILINE)
    assert "url" not in config(pool)


def test_variables_that_count_or_do_not(pool: Pool) -> None:
    """A relative directory is ignored, and so not the source; a switch is shown while it is on."""
    here = {"BUILD_SLOTS_DIR": "slots", "XDG_CACHE_HOME": ""}
    result = pool.run(script("buildslots"), "config", "--json", environ=here)
    rows = {row["setting"]: row["source"] for row in json.loads(result.stdout)["settings"]}
    assert rows["dir"] == "default"
    assert "disabled" not in config(pool)
    assert config(pool, environ={"BUILD_SLOTS_DISABLE": "1"})["disabled"] == (True, "BUILD_SLOTS_DISABLE")


def test_for_people(pool: Pool) -> None:
    """A table; mistakes are said on stderr, as builds say them."""
    environ = {"BUILD_SLOTS_TIMEOUT": "10m", "MAX_CONCURRENT_BUILDS": "x\x1b[2J"}
    result = pool.run(script("buildslots"), "config", environ=environ)
    assert result.returncode == 0
    assert re.search(r"^timeout +10 min 0 s +BUILD_SLOTS_TIMEOUT$", result.stdout, re.MULTILINE)
    assert re.search(r"^slots +\d+ +default for ", result.stdout, re.MULTILINE)
    assert result.stderr.count("\n") == 1
    assert "MAX_CONCURRENT_BUILDS: 'x" in result.stderr
    assert "\x1b" not in result.stderr


def test_init_writes_a_file_in_which_every_line_is_a_comment(pool: Pool, path: Path) -> None:
    """It changes nothing, and every line of it is right once its mark is taken away."""
    before = config(pool)
    result = pool.run(script("buildslots"), "config", "--init")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("config.toml was written: every line in it is a comment yet\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config(pool) == before
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub("^#(?! )", "", text, flags=re.MULTILINE), encoding="utf-8")
    said, problems, _ = file.read(str(path))
    assert problems == []
    assert {key for key, pool in said.said if not pool} == set(OF_CONFIGS) - {
        "slots",
        "priority",
        *OF_SERVERS,
    }
    assert (said.said["timeout", ""][0], said.said["slots", "link"][0]) == (120, 1)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_init_leaves_a_file_that_is_there(pool: Pool, path: Path, kind: str) -> None:
    """A link to nowhere too."""
    path.parent.mkdir(parents=True)
    target = pool.dir.parent / "target"
    if kind == "file":
        path.write_text("slots = 7\n")
    else:
        path.symlink_to(target)
    result = pool.run(script("buildslots"), "config", "--init")
    assert (result.returncode, result.stdout) == (1, "")
    assert "is there already: it was left as it is" in result.stderr
    assert not target.exists()
    assert kind == "link" or path.read_text() == "slots = 7\n"
