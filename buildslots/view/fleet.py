"""`buildslots fleet create`: make a pool on a server, and say what its hosts need to use it."""

from __future__ import annotations

import json
import os
import sys

from buildslots import rules
from buildslots.errors import SettingError
from buildslots.settings import resolve
from buildslots.settings.places import config_path
from buildslots.settings.values import parse_slots
from buildslots.view import warn
from buildslots.view.options import build_parser
from buildslots.words import short_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from buildslots.rules import PoolRules
    from buildslots.settings import Settings
    from buildslots.settings.address import Address

NOT_ON_A_SERVER = (
    "is a pool of this machine, which its first build makes; on a server: rediss://USER@HOST/DB/NAME"
)


def run(options: argparse.Namespace) -> int:
    """Make the pool: 1 if there is one of another number of slots."""
    if options.action is None:
        build_parser().parse_args(["fleet", "--help"])  # prints it and exits
    slots = parse_slots(options.slots, "--slots")
    settings = resolve(pool=options.url, warn=warn)
    if "url" not in settings.said:
        raise SettingError("fleet create", options.url, NOT_ON_A_SERVER)
    address: Address = settings.said["url"][0]
    if options.password_file is not None:
        address = address.having(password_file=os.path.abspath(options.password_file))
        settings.said["url"] = address, settings.source("url")
    told, is_new = rules.create(settings, slots)
    is_same = told.slots == slots
    if options.json:
        about = {"v": 1, "pool": settings.pool, "url": str(address), "created": is_new, **told.as_dict()}
        sys.stdout.write(json.dumps(about, indent=2) + "\n")
    else:
        sys.stdout.write(_text(settings, address, told, is_new=is_new, slots=slots))
    return int(not is_same)


def _text(settings: Settings, address: Address, told: PoolRules, *, is_new: bool, slots: int) -> str:
    """What was done, and what comes next."""
    has = "1 slot" if told.slots == 1 else f"{told.slots} slots"
    if not is_new:
        how = f"; `buildslots set -p {address} slots={slots}` changes that" if told.slots != slots else ""
        return f"the pool {settings.pool} at {address} is there already, with {has}{how}\n"
    lines = [f"the pool {settings.pool} at {address} was made, with {has} for all machines"]
    path = short_path(config_path(os.environ))
    if settings.source("url") == "option":
        lines += [
            "",
            f"Each machine finds it by these lines in {path}, or for all its users in",
            "/etc/buildslots/config.toml:",
            "",
            *_config(settings, address),
            "",
            "And then:",
        ]
    else:
        lines += ["", "Each machine that has the same lines in its config file can use it now:"]
    lines += ["", f"    slot-run -p {settings.pool} make", f"    buildslots status {settings.pool}"]
    lines.append(f"    buildslots doctor {settings.pool}")
    return "\n".join(lines) + "\n"


def _config(settings: Settings, address: Address) -> list[str]:
    """The lines of the config file that name the pool."""
    lines = [f"[pools.{_key(settings.pool)}]", f"url = {json.dumps(str(address))}"]
    if address.password_file is not None:
        lines.append(f"password_file = {json.dumps(_home(address.password_file), ensure_ascii=False)}")
    return [f"    {line}" for line in lines]


def _key(pool: str) -> str:
    """The name of a pool as a key of TOML, which takes no bare one with a dot in it."""
    return f'"{pool}"' if "." in pool else pool


def _home(path: str) -> str:
    """`path` with ~ for the home directory, which each machine has one of."""
    home = os.path.expanduser("~")
    return f"~{path[len(home) :]}" if path.startswith(home + os.sep) else path
