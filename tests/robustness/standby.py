"""A second PostgreSQL that follows the first, and takes its place under the same socket when that one dies."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from stack.postgres import INSTALLED, SUPERUSER, Postgres, PostgresError
from tests.robustness.cluster import Cluster
from tests.robustness.member import Member

# What the embedded server does without, so that another one can follow it.
FOLLOWED = ("--wal_level=replica", "--max_wal_senders=4", "--max_replication_slots=4")
SYNCHRONOUS = "ALTER SYSTEM SET synchronous_standby_names = '*';\nSELECT pg_reload_conf();\n"
ALONE = "ALTER SYSTEM RESET synchronous_standby_names;\nSELECT pg_reload_conf();\n"
MAY_FOLLOW = "local replication all trust\n"


@dataclass
class Standby:
    """The follower: its files, its process, and the first one that it follows."""

    cluster: Cluster
    postgres: Postgres
    member: Member

    def is_in_step(self) -> bool:
        """Whether a commit of the first one waits for it."""
        return (
            self.cluster.postgres.psql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync';\n") == "1\n"
        )

    def take_over(self) -> None:
        """Promotes it, and leads whoever dials the first one's socket to it. Kill the first one before."""
        self.postgres.psql("SELECT pg_promote(true, 20);\n" + ALONE)
        self.cluster.postgres.socket_path.unlink(missing_ok=True)
        self.cluster.postgres.socket_path.symlink_to(self.postgres.socket_path)

    def give_back(self) -> None:
        """Ends it in good order and leaves its files to the first one, which is then to be started."""
        assert self.member.stop() == 0
        first = self.cluster.postgres
        first.socket_path.unlink()
        authentication = (first.data / "pg_hba.conf").read_text()
        for each in first.data.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        _run("cp", "-a", f"{self.postgres.data}/.", str(first.data))
        (first.data / "pg_hba.conf").write_text(authentication)


@contextmanager
def standby(cluster: Cluster) -> Iterator[Standby]:
    """One that follows the cluster's database, which is started anew for that; gone at the end of the block."""
    first, member = cluster.postgres, cluster.members["postgres"]
    directory = cluster.directory / "standby"
    second = replace(first, data=directory / "data", sockets=directory / "run")
    authentication = first.data / "pg_hba.conf"
    plain = authentication.read_text()
    usual = member.command
    authentication.write_text(plain + MAY_FOLLOW)
    member.command = [*usual, *FOLLOWED]
    follower = replace(
        member,
        name="standby",
        command=[*second.command(), *FOLLOWED],
        log=cluster.home.log("standby"),
        healthy=second.ready,
        process=None,
    )
    try:
        member.stop()
        member.start()
        _copy(first, second)
        follower.start()
        yield Standby(cluster, second, follower)
    finally:
        if follower.alive:
            follower.kill()
        member.command = usual
        if not member.alive:
            first.socket_path.unlink(missing_ok=True)
            member.start()
        authentication.write_text(plain)
        first.psql(ALONE)
        shutil.rmtree(directory)


def _copy(first: Postgres, second: Postgres) -> None:
    """The files of a server that goes on meanwhile."""
    second.data.parent.mkdir(mode=0o711)
    second.sockets.mkdir(mode=0o711)
    source = f"user={SUPERUSER} host={first.sockets}"
    _run(str(INSTALLED / "bin" / "pg_basebackup"), "-D", str(second.data), "-R", "--checkpoint=fast", "-d", source)
    if first.account is not None:
        _run("chown", "-R", f"{first.account.uid}:{first.account.gid}", str(second.data), str(second.sockets))


def _run(*command: str) -> None:
    done = subprocess.run(command, env={"PATH": os.defpath, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PostgresError(f"{command[0]}: {done.stderr.strip()}")
