"""Where a pool on a server is: a URL that names the server, its database and the pool.

Loaded only where somebody has written a URL. The forms are those of redis-py and of the clients of Valkey
(https://redis.readthedocs.io/en/stable/connections.html, `Redis.from_url`), with the pool's name as the end::

    redis://[USER@]HOST[:PORT][/DB]/NAME      not encrypted
    rediss://[USER@]HOST[:PORT][/DB]/NAME     by TLS
    unix://[USER@]/PATH/TO/SOCKET[/DB]/NAME   a socket of this machine

Nothing in a URL is quoted with %, and there is no ?KEY=VALUE: shells have a meaning of their own for ? and &.
There is no place for a password either. Whoever looks at the processes of this machine would see it.
"""

from __future__ import annotations

from buildslots.errors import SettingError
from buildslots.settings.values import parse_pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

DEFAULT_PORT = 6379
"""What a server of Redis or Valkey listens on, with TLS or without."""
SCHEMES = ("redis", "rediss", "unix")

MOST_CHARACTERS = 1000
"""Of a URL."""
_MOST_HOST, _MOST_LABEL = 253, 63  # a name's, in the text form of DNS, and of what stands between its dots
_MOST_PATH = 107  # bytes of a socket's path, without the NUL: unix(7), `sun_path`
_MOST_DB = 6  # digits; a server has 16 unless its file says another number

NOT_A_URL = (
    "is not the address of a pool: redis://HOST/0/NAME, or rediss://USER@HOST:PORT/0/NAME by TLS, or "
    "unix:///PATH/OF/SOCKET/0/NAME"
)
SEEN_BY_OTHERS = (
    "has a password in it, which every user of the machine could read: password_file in [pools.NAME] of your "
    "config file names a file with it"
)
TOO_LONG_A_URL = f"is longer than {MOST_CHARACTERS} characters"
NOT_A_SCHEME = f"is of a kind that is none of {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
NOT_A_HOST = "names no host"
NOT_A_PORT = "has a port that is no number from 1 to 65535"
NOT_PLAIN = "has a character in it that no URL of a pool has, such as a blank, '%', '?' or '#'"
NO_NAME = "names no pool: it ends in /DB/NAME, as in /0/license"
NO_SOCKET = f"has no absolute path of a socket in it, of at most {_MOST_PATH} bytes"


class Address(str):
    """The address of a pool on a server, and what a build is to do about that server.

    As a str it is the URL in its one normal form, without a password: what to show, and what to compare.

    Attributes:
        scheme: "redis", "rediss" or "unix".
        user: The user to log in as; None for the server's default one.
        host: The name or the IP address of the server; "" for a socket.
        port: Its port; 0 for a socket.
        path: The absolute path of the socket; "" if it is none.
        db: The number of the database.
        name: The name of the pool there.
        password_file: The absolute path of the file with the user's password, or None.
        on_unreachable: "local" or "fail": what becomes of builds while the server cannot be reached.
        also_local: Whether a build takes a slot of this machine besides.
        directory: The directory of this machine's own pool of that name, absolute.
    """

    __slots__ = (
        "also_local",
        "db",
        "directory",
        "host",
        "name",
        "on_unreachable",
        "password_file",
        "path",
        "port",
        "scheme",
        "user",
    )

    scheme: str
    user: str | None
    host: str
    port: int
    path: str
    db: int
    name: str
    password_file: str | None
    on_unreachable: str
    also_local: bool
    directory: str

    def __new__(  # noqa: PLR0913, PLR0917 - by this module only
        cls,
        scheme: str,
        user: str | None,
        host: str,
        port: int,
        path: str,
        db: int,
        name: str,
        *,
        password_file: str | None = None,
        on_unreachable: str = "local",
        also_local: bool = False,
        directory: str = "",
    ) -> Self:
        """Made by this module only; others call `parse_url`, and `having` of what that returns."""
        at_host = f"[{host}]" if ":" in host else host
        whose = "" if user is None else f"{user}@"
        where = path if scheme == "unix" else f"{at_host}{'' if port == DEFAULT_PORT else f':{port}'}"
        address = super().__new__(cls, f"{scheme}://{whose}{where}/{db}/{name}")
        address.scheme, address.user, address.host, address.port = scheme, user, host, port
        address.path, address.db, address.name = path, db, name
        address.password_file = password_file
        address.on_unreachable = on_unreachable
        address.also_local = also_local
        address.directory = directory
        return address

    def __reduce__(self) -> tuple[object, ...]:
        return _made, (self._where(), self._how())

    def having(self, **changes: object) -> Address:
        """The same place with another `password_file`, `on_unreachable`, `also_local` or `directory`."""
        return _made(self._where(), self._how() | changes)

    @property
    def server(self) -> tuple[object, ...]:
        """What a password belongs to: two addresses of which this is equal are of one user on one server."""
        return self.scheme, self.user, self.host, self.port, self.path

    @property
    def is_encrypted_or_near(self) -> bool:
        """Whether nobody on a network can read what is said to the server: by TLS, or on this machine."""
        return self.scheme != "redis" or _is_loopback(self.host)

    def _where(self) -> tuple[object, ...]:
        return (*self.server, self.db, self.name)

    def _how(self) -> dict[str, object]:
        names = ("password_file", "on_unreachable", "also_local", "directory")
        return {name: getattr(self, name) for name in names}


def _made(where: tuple[object, ...], how: dict[str, object]) -> Address:
    return Address(*where, **how)  # type: ignore[arg-type]


def parse_url(text: str, source: str) -> Address:
    """Return the address that a URL is, with nothing said of password, failures and this machine's pool.

    Args:
        text: The URL.
        source: Where it comes from, for the error.

    Raises:
        SettingError: It is none, or has a password in it, which the error does not show.
    """
    scheme, colon, rest = text.partition("://")
    scheme = scheme.lower()
    if not colon:
        raise SettingError(source, text, NOT_A_URL)
    if len(text) > MOST_CHARACTERS:
        raise SettingError(source, text, TOO_LONG_A_URL)
    if has_password(text):  # first of all: there may be anything in one
        raise SettingError(source, text, SEEN_BY_OTHERS)
    if scheme not in SCHEMES:
        raise SettingError(source, text, NOT_A_SCHEME)
    if not rest.isprintable() or any(c in " %?#\\" for c in rest):
        raise SettingError(source, text, NOT_PLAIN)
    authority, slash, end = rest.partition("/")
    user, at, where = authority.rpartition("@")
    if at and not user:
        raise SettingError(source, text, NOT_A_URL)
    above, db, name = _database(slash + end, text, source)
    parse_pool(name, source)
    its_user = user or None
    if scheme == "unix":
        if where or not above or len(above.encode()) > _MOST_PATH:
            raise SettingError(source, text, NO_SOCKET)
        return Address(scheme, its_user, "", 0, above, db, name)
    if above:
        raise SettingError(source, text, NOT_A_URL)
    host, port = _host_and_port(where, text, source)
    return Address(scheme, its_user, host, port, "", db, name)


def has_password(text: str) -> bool:
    """Whether there is a URL in a text with a password in it, which may have a / or an @ in itself."""
    urls = (text[at:] for scheme in SCHEMES if (at := text.lower().find(f"{scheme}://")) >= 0)
    return any(":" in url.partition("://")[2].rpartition("@")[0] for url in urls)


def _database(path: str, text: str, source: str) -> tuple[str, int, str]:
    """What stands before the database in the path of a URL; the database, 0 if none is named; the pool."""
    above, _, name = path.rpartition("/")
    left, _, db = above.rpartition("/")
    if _is_number(db) and len(db) <= _MOST_DB:
        above, number = left, int(db)
    else:
        # Without a database a number as the name is most likely a database without a name, as other
        # clients have it.
        number, name = 0, "" if _is_number(name) else name
    if not name:
        raise SettingError(source, text, NO_NAME)
    return above, number, name


def _host_and_port(where: str, text: str, source: str) -> tuple[str, int]:
    """The host in small letters, without the brackets of an IPv6 address, and the port."""
    if where.startswith("["):
        host, bracket, port = where[1:].partition("]")
        is_host = bool(bracket) and ":" in host and set(host.lower()) <= set("0123456789abcdef:.")
        colon, port = port[:1], port[1:]
        is_host = is_host and colon in {"", ":"}
    else:
        host, colon, port = where.partition(":")
        bare = host.replace(".", "").replace("-", "").replace("_", "")
        is_host = bare.isascii() and bare.isalnum() and len(host) <= _MOST_HOST
        is_host = is_host and all(0 < len(label) <= _MOST_LABEL for label in host.split("."))
    if not is_host:
        raise SettingError(source, text, NOT_A_HOST)
    if not colon:
        return host.lower(), DEFAULT_PORT
    if not _is_number(port) or len(port) > 5 or not 0 < int(port) < 65536:
        raise SettingError(source, text, NOT_A_PORT)
    return host.lower(), int(port)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_loopback(host: str) -> bool:
    """Whether a host is this one by its name alone: 127.0.0.0/8 and ::1 (RFC 5735, RFC 4291), localhost.

    Nothing is looked up: whoever answers for names could answer with anything. localhost is never asked for
    (RFC 6761, 6.3). "127.example.org" is another's.
    """
    parts = host.split(".")
    is_v4 = len(parts) == 4 and all(_is_number(part) and len(part) <= 3 and int(part) < 256 for part in parts)
    return host in {"localhost", "::1"} or (is_v4 and parts[0] == "127")
