"""What must be there before the services start: their certificates and Envoy's bootstrap.

It runs as a short process of its own, so that the supervisor stays small: `python -m stack.preparation`.
"""

import sys
from pathlib import Path

from gateway.edge import bootstrap
from mesh.pki import ensure_authority, issue_service

SERVICES = ("controller", "inference_router", "gateway", "supervisor")


def prepare(pki: Path, bootstrap_file: Path, xds: str, admin: str) -> None:
    """Make or renew what is missing or old. Safe to repeat."""
    ensure_authority(pki)
    for name in SERVICES:
        issue_service(pki, name, hosts=(_host(name),))
    bootstrap_file.write_text(bootstrap.render(xds=xds, admin=admin))


def _host(service: str) -> str:
    """What the service is called where each has a machine or container of its own."""
    return service.replace("_", "-")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
