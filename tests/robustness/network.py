"""A network of the test's own: a bridge in one namespace, a namespace with an address for each machine, and its faults.

The bridge has a namespace to itself, so that no firewall of this machine sees what passes. Namespaces carry the pid of
the program that made them; those of a program that is gone are removed by the next one.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

from tests.robustness.weather import MARK, PROGRAM, QUEUE, Weather

PREFIX = "aiops-rb"
NAMESPACES = Path("/run/netns")
TOOLS = ("ip", "iptables", "nsenter", "setpriv")
HOST_NUMBER = 254
BOTH = ("INPUT", "OUTPUT")


def missing() -> str:
    """Why no network can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"these programs are missing: {', '.join(lacking)}"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"no network namespace can be made: {done.stderr.strip()}"
    _run("ip", "netns", "del", probe)
    return ""


@dataclass(frozen=True)
class Machine:
    """A namespace with one interface, `eth0`, and one address."""

    namespace: str
    address: str

    def command(self, *command: str) -> list[str]:
        """The command line that runs a program here; the process keeps its pid."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", *command]

    def iptables(self, *rule: str) -> None:
        """Changes this machine's own firewall."""
        _run(*self.command("iptables", "-w", *rule))

    def forward(self, virtual: str, actual: str) -> None:
        """Whoever here dials `virtual` from now on gets `actual`; connections that are open stay where they are."""
        self.iptables("-t", "nat", "-F", "OUTPUT")
        self.iptables("-t", "nat", "-A", "OUTPUT", "-d", virtual, "-j", "DNAT", "--to-destination", actual)

    @contextmanager
    def silent_to(self, *peers: str, ways: Sequence[str] = BOTH) -> Iterator[None]:
        """Packets to (OUTPUT) and from (INPUT) the peers are dropped without a word."""
        rules = [(way, "-d" if way == "OUTPUT" else "-s", peer, "-j", "DROP") for peer in peers for way in ways]
        with self._ruled(rules):
            yield

    @contextmanager
    def refusing(self, *peers: str) -> Iterator[None]:
        """Every packet to the peers is answered by a reset: connections break at once, new ones are refused."""
        rules = [("OUTPUT", "-p", "tcp", "-d", peer, "-j", "REJECT", "--reject-with", "tcp-reset") for peer in peers]
        with self._ruled(rules):
            yield

    @contextmanager
    def in_bad_weather(self, weather: Weather) -> Iterator[None]:
        """What comes and goes is late and out of order, and some of what goes goes twice."""
        rules = [
            ("OUTPUT", "-m", "mark", "!", "--mark", str(MARK), "-j", "NFQUEUE", "--queue-num", str(QUEUE)),
            ("INPUT", "-j", "NFQUEUE", "--queue-num", str(QUEUE)),
        ]
        # The firewall does not count what goes twice as connections of its own.
        untracked = ("OUTPUT", "-m", "mark", "--mark", str(MARK), "-j", "CT", "--notrack")
        program = subprocess.Popen(self.command(sys.executable, str(PROGRAM), *weather.arguments), stdout=PIPE)
        try:
            assert program.stdout is not None
            assert program.stdout.readline(), f"no weather: the program ended with {program.wait()}"
            with self._ruled([untracked], "raw"), self._ruled(rules):
                yield
        finally:
            program.kill()
            program.communicate()

    @contextmanager
    def losing(self, share: float) -> Iterator[None]:
        """So large a share of what arrives is lost."""
        rule = ("INPUT", "-m", "statistic", "--mode", "random", "--probability", f"{share:.3f}", "-j", "DROP")
        with self._ruled([rule]):
            yield

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """The cable is out."""
        _run("ip", "-n", self.namespace, "link", "set", "eth0", "down")
        try:
            yield
        finally:
            _run("ip", "-n", self.namespace, "link", "set", "eth0", "up")

    @contextmanager
    def _ruled(self, rules: Sequence[Sequence[str]], table: str = "filter") -> Iterator[None]:
        for rule in rules:
            self.iptables("-t", table, "-I", *rule)
        try:
            yield
        finally:
            for rule in rules:
                self.iptables("-t", table, "-D", *rule)


class Network:
    """All machines of one cluster; this program itself is one of them, by its own interface."""

    def __init__(self) -> None:
        _remove_leftovers()
        self._mark = f"{os.getpid()}-{random.randrange(16**4):04x}"  # noqa: S311 - a name, no secret
        self._net = _free_subnet()
        self._switch = self._namespace("switch")
        self._count = 0
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        self._plug_host()

    def machine(self, name: str) -> Machine:
        """One more machine."""
        self._count += 1
        machine = Machine(self._namespace(name), f"{self._net}.{self._count}")
        port = f"p{self._count}"
        _run(
            "ip", "link", "add", port, "netns", self._switch, "type", "veth", "peer", "eth0", "netns", machine.namespace
        )
        self._into_bridge(port)
        _run("ip", "-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "eth0")
        _run("ip", "-n", machine.namespace, "link", "set", "eth0", "up")
        return machine

    def virtual_address(self) -> str:
        """An address that nobody has; `Machine.forward` leads it somewhere."""
        return f"{self._net}.{HOST_NUMBER - 1}"

    def remove(self) -> None:
        """Everything goes; processes that are still inside keep a network without a cable."""
        for path in list(NAMESPACES.glob(f"{PREFIX}-{self._mark}-*")):
            _run("ip", "netns", "del", path.name)

    def _namespace(self, name: str) -> str:
        namespace = f"{PREFIX}-{self._mark}-{name}"
        _run("ip", "netns", "add", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace

    def _plug_host(self) -> None:
        inside, outside = "host", f"rb{self._mark.replace('-', '')}"[:15]
        _run("ip", "link", "add", outside, "type", "veth", "peer", inside, "netns", self._switch)
        self._into_bridge(inside)
        _run("ip", "addr", "add", f"{self._net}.{HOST_NUMBER}/24", "dev", outside)
        _run("ip", "link", "set", outside, "up")

    def _into_bridge(self, port: str) -> None:
        _run("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")


def _free_subnet() -> str:
    routes = _run("ip", "-4", "route", "show", "table", "all")
    while True:
        net = f"10.{random.randrange(64, 250)}.{random.randrange(256)}"  # noqa: S311 - a choice, no secret
        if f"{net}." not in routes:
            return net


def _remove_leftovers() -> None:
    for path in NAMESPACES.glob(f"{PREFIX}-*") if NAMESPACES.is_dir() else ():
        owner = re.fullmatch(rf"{PREFIX}-(\d+)-.*", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _run("ip", "netns", "del", path.name)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
