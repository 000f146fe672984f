"""Hosts that can be cut off from each other: network namespaces, each with one wire to a common switch.

A host here is a network namespace with an address of its own on a bridge in the namespace of the switch.
Its wire is a pair of veth(4). Setting the switch's end down loses every packet in both directions without a
word to either side, like a pulled cable: connections stay open, and go on when the wire is back. Files and
Unix sockets are common to all hosts.

As another user than root all of it happens in one user namespace, in which that user is root (Linux; it needs
`ip`, `unshare` and `nsenter`, and a kernel that lets users have user namespaces).
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from bench.kit.shell import Missing

if TYPE_CHECKING:
    from typing import Self

READY = "ip link set lo up && echo ready && exec cat"
"""What runs in a namespace to keep it there. It ends when its stdin does, so with us, whatever ends us."""


class Hosts:
    """`count` hosts, 0 and up, and the switch between them; they are there while the `with` block runs."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._keepers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        try:
            user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
            self._keep(["unshare", *user, "--net"])
            self._ip("link add name switch type bridge", "link set switch up")
            for host in range(self.count):
                self._keep([*self._enter(0), "unshare", "--net", "--uts"])
                self._plug_in(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for keeper in reversed(self._keepers):  # the kernel removes a namespace with its last process
            keeper.kill()
            keeper.communicate()
        self._keepers.clear()

    def prefix(self, host: int) -> list[str]:
        """The words in front of a command that run it on `host`."""
        return self._enter(host + 1)

    @staticmethod
    def address(host: int) -> str:
        """The address of `host`, for all others."""
        return f"10.77.0.{host + 1}"

    def cut(self, *hosts: int) -> None:
        """Take `hosts` off the switch: from now on no packet reaches them or leaves them."""
        self._ip(*(f"link set wire{host} down" for host in hosts))

    def heal(self, *hosts: int) -> None:
        """Put `hosts` back."""
        self._ip(*(f"link set wire{host} up" for host in hosts))

    def _keep(self, command: list[str]) -> None:
        keeper = subprocess.Popen(
            [*command, "sh", "-c", READY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._keepers.append(keeper)
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        if keeper.stdout.readline() != "ready\n":
            raise Missing(f"no network namespaces here: {keeper.stderr.read().strip()}")

    def _plug_in(self, host: int) -> None:
        wire, pid = f"wire{host}", self._keepers[-1].pid
        pair = f"link add name {wire} type veth peer name eth0 netns {pid}"
        self._ip(pair, f"link set {wire} master switch")
        inside = f"hostname host{host} && ip addr add {self.address(host)}/24 dev eth0 && ip link set eth0 up"
        _run([*self._enter(host + 1), "sh", "-c", inside])
        self.heal(host)

    def _ip(self, *commands: str) -> None:
        _run([*self._enter(0), "sh", "-c", " && ".join(f"ip {command}" for command in commands)])

    def _enter(self, number: int) -> list[str]:
        """Words that enter the namespaces of a keeper; of the first, the switch's."""
        keeper = self._keepers[number]
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        names = ["--uts"] if number else []
        return ["nsenter", "--target", str(keeper.pid), *user, "--net", *names, "--"]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{command[-1]}: {done.stderr.strip()}")
