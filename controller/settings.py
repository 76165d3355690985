"""The controller's settings, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from mesh.failpoints import Failpoint
from mesh.settings import Observability, failpoints, observability, required, whole


@dataclass(frozen=True, slots=True)
class Settings:
    """What the controller needs to know. Every field's variable is in docs/settings.md."""

    home: Path
    database_url: str = field(repr=False)
    database_pool: int
    kafka: str
    storage_url: str
    # How long an address of a file is good that a node gets.
    signed_lifetime: timedelta
    hub_url: str
    hub_token: str = field(repr=False)
    pki: Path
    api_address: str
    mesh_address: str
    join_address: str
    # Where other controllers reach this one's mesh listener.
    peer_address: str
    # What nodes are told to dial; the listening addresses when empty.
    public_mesh_address: str
    public_join_url: str
    # host:port of the gateway's port for nodes: one address for joining, sessions and tunnels.
    public_node_address: str
    admin_password: str = field(repr=False)
    # How long a key signs tokens before a new one does.
    signing_key_age: timedelta
    # How long the ledger keeps single requests; their sums stay.
    usage_kept: timedelta
    observability: Observability
    lease: timedelta
    heartbeat: timedelta
    failpoints: Mapping[str, Failpoint]
    # When at least so many nodes and more than such a share of them fall silent together, none is declared lost.
    mass_least: int
    mass_percent: int
    # Whether routes may lead to providers in the platform's own network.
    private_providers: bool
    # Where batches ask, how many requests of one at a time, and how long their files may be.
    url: str
    batch_concurrency: int
    batch_file_bytes: int


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in the environment. Raises ValueError naming the variable that is missing or wrong."""
    home = Path(environment.get("AIOPS_HOME", ".aiops")).absolute()
    return Settings(
        home=home,
        database_url=required(environment, "AIOPS_DATABASE_URL"),
        database_pool=whole(environment, "AIOPS_DATABASE_POOL", 8),
        kafka=environment.get("AIOPS_KAFKA", "127.0.0.1:9092"),
        storage_url=environment.get("AIOPS_STORAGE_URL", f"file://{home}/objects"),
        signed_lifetime=timedelta(seconds=whole(environment, "AIOPS_STORAGE_SIGNED_SECONDS", 900)),
        hub_url=environment.get("AIOPS_HUB_URL", "https://huggingface.co"),
        hub_token=environment.get("AIOPS_HUB_TOKEN", ""),
        pki=Path(environment.get("AIOPS_PKI", str(home / "pki"))),
        api_address=environment.get("AIOPS_CONTROLLER_API", "127.0.0.1:7080"),
        mesh_address=environment.get("AIOPS_CONTROLLER_MESH", "127.0.0.1:7081"),
        peer_address=environment.get("AIOPS_CONTROLLER_PEER")
        or environment.get("AIOPS_CONTROLLER_MESH", "127.0.0.1:7081"),
        join_address=environment.get("AIOPS_CONTROLLER_JOIN", "127.0.0.1:7082"),
        public_mesh_address=environment.get("AIOPS_PUBLIC_MESH_ADDRESS", ""),
        public_join_url=environment.get("AIOPS_PUBLIC_JOIN_URL", ""),
        public_node_address=environment.get("AIOPS_PUBLIC_NODE_ADDRESS", ""),
        admin_password=environment.get("AIOPS_ADMIN_PASSWORD", ""),
        signing_key_age=timedelta(days=whole(environment, "AIOPS_SIGNING_KEY_DAYS", 90)),
        usage_kept=timedelta(days=whole(environment, "AIOPS_USAGE_DAYS", 90)),
        observability=observability(environment),
        lease=timedelta(seconds=whole(environment, "AIOPS_NODE_LEASE_SECONDS", 15)),
        heartbeat=timedelta(seconds=whole(environment, "AIOPS_NODE_HEARTBEAT_SECONDS", 5)),
        failpoints=failpoints(environment),
        mass_least=whole(environment, "AIOPS_MASS_LOSS_NODES", 3),
        mass_percent=whole(environment, "AIOPS_MASS_LOSS_PERCENT", 50),
        private_providers=environment.get("AIOPS_PRIVATE_PROVIDERS", "off") == "on",
        url=environment.get("AIOPS_URL", "http://127.0.0.1:8080"),
        batch_concurrency=whole(environment, "AIOPS_BATCH_CONCURRENCY", 8),
        batch_file_bytes=whole(environment, "AIOPS_BATCH_FILE_MB", 200) * 1024 * 1024,
    )
