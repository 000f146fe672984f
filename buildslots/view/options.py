"""The command line of `buildslots`: its commands and their options, as a parser and as data.

`main` reads the command line with it. The commands that describe the command line read it too: the manual
(`help`), completion and the man pages. This module imports none of them.
"""

from __future__ import annotations

import argparse

from buildslots import __version__
from buildslots.errors import SettingError
from buildslots.settings.values import parse_duration
from buildslots.view import nearest
from buildslots.words import PATH_SHOWN, shown

SHELLS = ("bash", "zsh", "fish")
SHORTEST_S = 0.05
"""The shortest interval between two looks, because each look takes the pool's mutex."""
TOPICS = {
    "slot-run": "waiting, the timeout, options, exit status, signals, Tab",
    "config": "the config file, the environment, and which of them wins",
    "pools": "named pools, and other programs that lock slots",
    "views-and-json": "status, history, report, trace, the journal, and their JSON",
    "library": "slots in Python: threads, asyncio, trio, processes",
    "recipes": "make, CMake, cargo, npm, pip, pytest, git, cron, agents",
    "shared-pools": "one pool for several users, or for containers",
    "security": "what nobody can do to your builds, and who could",
    "protocol": "what is on disk, for a client in another language",
    "troubleshooting": "doctor, release, and what to do when something is wrong",
}
"""The manual's pages: files of `help/`, and what each is about."""
WORDS = {
    "interval": ("1s", "5s", "1m"),
    "since": ("1h", "1d", "7d", "none"),
    "shell": SHELLS,
    "topic": tuple(TOPICS),
}
"""The values that completion offers, by the name of the option or operand in the parsed options."""
DESCRIPTION = "See the machine's build slots, their past, and what is wrong with them."
EXAMPLES = """\
examples:
  buildslots                     who builds, who waits
  buildslots status --watch      the same, kept up to date, with what it costs
  buildslots history --since 7d  how long builds waited, and if the cap fits
  buildslots doctor              what is wrong with this machine's pool
  buildslots help recipes        slot-run with make, CMake, cargo, git, cron

Builds are run with slot-run; see `slot-run --help`.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; it puts the name of the subcommand into `options.command`."""
    parser = argparse.ArgumentParser(
        prog="buildslots",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        title="commands; none means status", metavar="COMMAND", dest="command", required=True
    )

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    status = command("status", "who holds the slots and who waits, in order")
    _pool_operand(status)
    _of_pool(status)
    status.add_argument("-a", "--all", action="store_true", help="all pools in the directory")
    status.add_argument("-w", "--watch", action="store_true", help="keep it up to date, with CPU and memory")
    status.add_argument(
        "--interval", type=_seconds, metavar="DURATION", help="between two updates of --watch [1s]"
    )
    _as_json(status)

    history = command("history", "how long builds waited and ran, from the journal, with advice")
    _pool_operand(history)
    _of_past(history)
    _as_json(history)

    trace = command("trace", "the journal as trace events, for ui.perfetto.dev and chrome://tracing")
    _of_past(trace)
    _output(trace, "where to write it [stdout]")

    report = command("report", "the same timeline as one web page that needs no network")
    _of_past(report)
    _output(report, 'where to write it; "-": stdout')

    doctor = command("doctor", "try out what the pool relies on, and say what is wrong; exits 1 then")
    _pool_operand(doctor)
    _of_pool(doctor)
    doctor.add_argument("-v", "--verbose", action="store_true", help="also what is as it should be, and why")
    _as_json(doctor)

    release = command("release", "end what keeps a slot although its build is gone, after asking")
    _of_pool(release)
    release.add_argument(
        "slots", nargs="*", type=_slot, metavar="SLOT", help="only these, even if their builds still run"
    )
    release.add_argument("-y", "--yes", action="store_true", help="do not ask")

    config = command("config", "what counts for a build here, and who said so")
    _pool_operand(config)
    _of_pool(config)
    config.add_argument("--init", action="store_true", help="write a config file in which all is a comment")
    _as_json(config)

    pools = command("pools", "the names of the pools, one a line")
    _in_dir(pools)

    topics = command("help", "the manual, a page at a time, or what a command takes")
    topics.add_argument("topic", nargs="?", metavar="TOPIC", help="a page or a command; none: list the pages")

    completion = command("completion", "the script that makes a shell complete slot-run and buildslots")
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return parser


def parse(parser: argparse.ArgumentParser, args: list[str]) -> argparse.Namespace:
    """The options in `args`. A mistake is said in one sentence, and raises SystemExit, as argparse does.

    Without a command they are those of `status`: that is what most people want to see.
    """
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help", "--version")):
        args = ["status", *args]
    names = command_names(parser)
    if args[0] not in names and not args[0].startswith("-"):
        hint = nearest(args[0], names)
        hint = f"the nearest: {hint}" if hint else f"{', '.join(names)}; builds are run with slot-run"
        parser.error(f"there is no command {shown(repr(args[0]), PATH_SHOWN)}; {hint}")
    options = parser.parse_args(args)
    for operand, option in (("named", "pool"), ("file", "output")):
        text = getattr(options, operand, None)
        if text is None:
            continue
        if getattr(options, option) is not None:
            parser.error(f"{shown(repr(text), PATH_SHOWN)} and --{option} say two things: leave out one")
        setattr(options, option, text)
    if options.command == "status" and options.interval is not None and not options.watch:
        parser.error("--interval is for --watch: give both, or none")
    if options.command == "report" and options.output is None:
        parser.error("report: where to write it? `buildslots report FILE.html`")
    return options


def command_names(parser: argparse.ArgumentParser) -> list[str]:
    """The commands that `parser` knows."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001 - argparse has no public way to ask
    return list(commands.choices)


def _pool_operand(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("named", nargs="?", metavar="NAME", help="the pool, as --pool")


def _output(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file, as --output")
    parser.add_argument("-o", "--output", metavar="FILE", help=text)


def _of_pool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--pool", metavar="NAME", help="the pool [default]")
    _in_dir(parser)


def _in_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", metavar="PATH", help="directory of the default pool")


def _of_past(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--pool", metavar="NAME", help="only this pool [all]")
    parser.add_argument(
        "--since",
        type=_period,
        default="1d",
        metavar="DURATION",
        help="how far back: 90m, 12h, 7d [1d]",
    )


def _as_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="for programs; the fields: `buildslots help views-and-json`"
    )


def _period(text: str) -> float | None:
    """The seconds of a duration as in slot-run's --timeout, or of days such as 7d; None for "none"."""
    days = text.endswith("d")
    try:
        hours_or_all = parse_duration(f"{text[:-1]}h" if days else text, "--since")
    except SettingError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error.problem}") from None
    return hours_or_all * 24 if days and hours_or_all else hours_or_all


def _seconds(text: str) -> float:
    seconds = _period(text)
    if seconds is None or seconds < SHORTEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of {SHORTEST_S} s or more")
    return seconds


def _slot(text: str) -> int:
    digits = text.removeprefix("slot-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a slot")
    return int(digits)
