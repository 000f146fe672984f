"""The command line of `buildslots`: its commands and their options, as a parser and as data.

`main` reads the command line with it. The commands that describe the command line read it too: the manual
(`help`), completion and the man pages. This module imports none of them.
"""

from __future__ import annotations

import argparse

from buildslots import __version__
from buildslots.errors import SettingError, without_password
from buildslots.settings.address import SEEN_BY_OTHERS, has_password
from buildslots.settings.values import parse_duration
from buildslots.view import nearest
from buildslots.view.agent_options import AGENT_MODES, AGENTS, HOOK_AGENTS, HOOK_MODES, SHELL, of_agents
from buildslots.words import PATH_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SHELLS = ("bash", "zsh", "fish")
FORMATS = ("text", "json", "prometheus")
"""What `status --format` takes."""
FAIL = ("soon", "never", "now")
"""What `--fail` takes; `batch.plan` says it too, and is not loaded for every command."""
FLEET_ACTIONS = ("create",)
MOST_JOBS = 1024
WAIT_S = 100.0
"""How long `wait` waits: tools of agents end what takes them 120 s."""
SHORTEST_S = 0.05
"""The shortest interval between two looks, because each look takes the pool's mutex."""
TOPICS = {
    "slot-run": "waiting, the timeout, options, exit status, signals, Tab",
    "config": "config files, a project's file, the environment: which wins",
    "pools": "named pools, and other programs that lock slots",
    "tokens": "CPU tokens: the jobs of all builds together are bounded",
    "views-and-json": "status, history, report, trace, the journal, and their JSON",
    "batch": "many tasks at once: plans, streams, staging, records, Python",
    "library": "slots in Python: threads, asyncio, trio, processes",
    "agents": "coding agents: what makes their builds take slots",
    "recipes": "make, CMake, cargo, npm, pip, pytest, git, cron, agents",
    "shared-pools": "one pool for several users, or for containers",
    "fleet": "one pool for several machines, on a Redis or Valkey server",
    "security": "what nobody can do to your builds, and who could",
    "protocol": "what is on disk, for a client in another language",
    "troubleshooting": "doctor, release, and what to do when something is wrong",
}
"""The manual's pages: files of `help/`, and what each is about."""
WORDS = {
    "format": FORMATS,
    "interval": ("1s", "5s", "1m"),
    "since": ("1h", "1d", "7d", "none"),
    "shell": SHELLS,
    "topic": tuple(TOPICS),
    "action": FLEET_ACTIONS,
    "agent": (*AGENTS, SHELL),
    "mode": AGENT_MODES,
    "hook_agent": HOOK_AGENTS,
    "hook_mode": HOOK_MODES,
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
    status.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help="text, json or prometheus: metrics with counters [text]",
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
    doctor.add_argument("--agent", choices=AGENTS, help="instead: whether this agent's builds take slots")
    _as_json(doctor)

    release = command("release", "end what keeps a slot although its build is gone, after asking")
    _of_pool(release)
    release.add_argument(
        "slots", nargs="*", type=_slot, metavar="SLOT", help="only these, even if their builds still run"
    )
    release.add_argument("--ownerless", action="store_true", help="end the builds whose owner is gone")
    release.add_argument("-y", "--yes", action="store_true", help="do not ask")

    _rules(command)
    _fleet(command)
    _batches(command)
    _detached(command)

    config = command("config", "what counts for a build here, and who said so")
    _pool_operand(config)
    _of_pool(config)
    config.add_argument("--init", action="store_true", help="write a config file in which all is a comment")
    _as_json(config)

    pools = command("pools", "the names of the pools, one a line")
    _in_dir(pools)

    of_agents(command)

    topics = command("help", "the manual, a page at a time, or what a command takes")
    topics.add_argument("topic", nargs="?", metavar="TOPIC", help="a page or a command; none: list the pages")

    completion = command("completion", "the script that makes a shell complete slot-run and buildslots")
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return parser


def _rules(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The commands about what a pool says itself."""
    setting = command("set", "let the pool say its cap to every caller: `slots=4`; `slots=` takes it back")
    setting.add_argument(
        "rules",
        nargs="+",
        metavar="RULE",
        help="slots=N: the cap; tokens=N, auto or off: CPU tokens; head_start=5m: what priority is worth",
    )
    _of_pool(setting)
    _as_json(setting)

    rules = command("rules", "what the pool says to every caller, and who said so")
    _pool_operand(rules)
    _of_pool(rules)
    _as_json(rules)

    pause = command("pause", "let nobody start for a while; who runs goes on")
    pause.add_argument("duration", nargs="?", metavar="DURATION", help="10m, 2h; at most 4h [1h]")
    pause.add_argument("--reason", nargs="+", metavar="TEXT", help="why; those who wait read it")
    _of_pool(pause)
    _as_json(pause)

    resume = command("resume", "end a pause")
    _pool_operand(resume)
    _of_pool(resume)
    _as_json(resume)


def _fleet(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The command about pools on servers that no other command has."""
    fleet = command("fleet", "make a pool on a server, for several machines: `buildslots help fleet`")
    fleet.add_argument("action", nargs="?", choices=FLEET_ACTIONS, metavar="create", help="make the pool")
    fleet.add_argument("url", nargs="?", metavar="URL", help="where: rediss://USER@HOST/DB/NAME; or its name")
    fleet.add_argument("--slots", metavar="N", help="how many may be held, on all machines together")
    fleet.add_argument("--password-file", metavar="PATH", help="the file, 0600, with the user's password")
    _as_json(fleet)


def _batches(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The commands about batches."""
    batch = command("batch", "run many tasks, bounded by the slots: `buildslots help batch`")
    batch.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help='a plan in TOML; JSON lines in a .ndjson or "-", which is stdin',
    )
    batch.add_argument(
        "-j", "--jobs", type=_jobs, metavar="N", help="tasks at once; 1: in order [2 x cores, 8]"
    )
    batch.add_argument(
        "--fail", choices=FAIL, help="after a failure: nothing new, all the rest, end what runs"
    )
    batch.add_argument("--all-or-nothing", action="store_true", help="undo everything if anything fails")
    batch.add_argument("--resume", action="store_true", help="skip what the last run has done")
    batch.add_argument("--dry-run", action="store_true", help="print the plan, and run nothing")
    batch.add_argument("--log-dir", metavar="PATH", help="where logs are kept")
    batch.add_argument(
        "-p", "--pool", metavar="NAME", help='of tasks that name none, or its URL; "": no slots [default]'
    )
    batch.add_argument(
        "--tokens", metavar="C", help="of which commands take their jobs; --tokens is auto [off]"
    )
    _in_dir(batch)
    batch.add_argument("--json", action="store_true", help="JSON lines for programs, in order of completion")

    batches = command("batches", "the runs of batches, or one of them with its tasks and logs")
    batches.add_argument("show", nargs="*", metavar="show ID", help="show a run, or the last one of a batch")
    _as_json(batches)


def _detached(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The commands about what `slot-run --detach` has started."""
    waiting = command("wait", "wait for a detached build, and exit with its status; 75 while it goes on")
    _build_operand(waiting)
    waiting.add_argument(
        "--for",
        type=_period,
        default=WAIT_S,
        dest="seconds",
        metavar="DURATION",
        help="how long at most; none: to its end [100s]",
    )

    log = command("log", "what a detached build has printed")
    _build_operand(log)
    log.add_argument("-n", "--lines", type=_count, metavar="N", help="only the last N lines")

    stop = command("stop", "end a detached build and all below it, whether it waits or runs")
    _build_operand(stop)

    every = command("jobs", "the detached builds, the newest first")
    _as_json(every)


def parse(parser: argparse.ArgumentParser, args: list[str]) -> argparse.Namespace:
    """The options in `args`. A mistake is said in one sentence, and raises SystemExit, as argparse does.

    Without a command they are those of `status`: that is what most people want to see.
    """
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help", "--version")):
        args = ["status", *args]
    _refuse_passwords(parser, args)
    names = command_names(parser)
    if args[0] not in names and not args[0].startswith("-"):
        hint = nearest(args[0], names)
        hint = f"the nearest: {hint}" if hint else f"{', '.join(names)}; builds are run with slot-run"
        parser.error(f"there is no command {shown(repr(args[0]), PATH_SHOWN)}; {hint}")
    options = _parse_batch(parser, args) if args[0] == "batch" else parser.parse_args(args)
    if options.command == "batches":
        given = options.show[1:] if options.show[:1] == ["show"] else options.show
        if len(given) > 1 or options.show == ["show"]:
            parser.error("batches: show which one? `buildslots batches` lists the runs, `… show ID` is one")
        options.show = given[0] if given else None
    for operand, option in (("named", "pool"), ("file", "output")):
        text = getattr(options, operand, None)
        if text is None or not hasattr(options, option):
            continue
        if getattr(options, option) is not None:
            parser.error(f"{shown(repr(text), PATH_SHOWN)} and --{option} say two things: leave out one")
        setattr(options, option, text)
    if options.command == "status":
        _settle_status(parser, options)
    _check_complete(parser, options)
    return options


def _refuse_passwords(parser: argparse.ArgumentParser, args: list[str]) -> None:
    """Raise SystemExit for a password in the URL of a pool, before the parser or a command repeats it."""
    for word in args[: args.index("--") if "--" in args else None]:
        if has_password(word):
            parser.error(f"{shown(repr(without_password(word)), PATH_SHOWN)} {SEEN_BY_OTHERS}")


def _check_complete(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Say what is missing without which a command can do nothing, and raise SystemExit."""
    if options.command == "setup" and options.agent is None and (options.mode or options.uninstall):
        parser.error(f"setup: which agent? {', '.join(AGENTS)}")
    if options.command == "setup" and options.agent == SHELL and (options.mode or options.project):
        parser.error("setup shell: shims are a user's, and have no mode; leave out --project and --mode")
    if options.command == "release" and options.ownerless and options.slots:
        parser.error("release: --ownerless says which slots: name none")
    if options.command == "fleet" and options.action and (options.url is None or options.slots is None):
        parser.error("fleet create: which pool, with how many slots? `buildslots fleet create URL --slots 3`")
    if options.command == "report" and options.output is None:
        parser.error("report: where to write it? `buildslots report FILE.html`")


def _settle_status(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Give `options` of `status` one word for the format."""
    if options.interval is not None and not options.watch:
        parser.error("--interval is for --watch: give both, or none")
    if options.json and options.format not in (None, "json"):
        parser.error(f"--json and --format {options.format} say two things: leave out one")
    if options.watch and options.format == "prometheus":
        parser.error("--format prometheus is one look, for a file that is replaced: leave out --watch")
    options.format = "json" if options.json else options.format or "text"
    options.json = options.format == "json"


def _parse_batch(parser: argparse.ArgumentParser, args: list[str]) -> argparse.Namespace:
    """The options of `batch`; behind "--" stands a command, whatever it looks like."""
    at = args.index("--") if "--" in args else len(args)
    # Without a value it would take the FILE for one.
    options = parser.parse_args(["--tokens=auto" if arg == "--tokens" else arg for arg in args[:at]])
    options.template = args[at + 1 :] if at < len(args) else None
    if options.template == []:
        parser.error("batch: behind -- belongs a command, such as `buildslots batch -- gzip {}`")
    if (options.file is None) == (options.template is None):
        parser.error("batch: give a FILE with tasks, or -- and a COMMAND with one argument a line on stdin")
    return options


def command_names(parser: argparse.ArgumentParser) -> list[str]:
    """The commands that `parser` knows."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001 - argparse has no public way to ask
    return list(commands.choices)


def _pool_operand(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("named", nargs="?", metavar="NAME", help="the pool, as --pool")


def _build_operand(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", metavar="ID", help="which one [the newest of this worktree]")


def _output(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file, as --output")
    parser.add_argument("-o", "--output", metavar="FILE", help=text)


def _of_pool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--pool", metavar="NAME", help="the pool, or its URL [default]")
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


def _jobs(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_JOBS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_JOBS}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) < 10**8):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def _slot(text: str) -> int:
    digits = text.removeprefix("slot-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a slot")
    return int(digits)
