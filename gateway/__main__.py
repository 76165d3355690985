"""`python -m gateway`: serves Envoys until SIGTERM. `python -m gateway bootstrap` prints Envoy's start-up file."""

import argparse
import sys

from gateway.settings import read_settings
from mesh.process import run_service


def main() -> int:
    """Reads the settings and runs, or prints."""
    parser = argparse.ArgumentParser(prog="gateway")
    commands = parser.add_subparsers(dest="command")
    print_bootstrap = commands.add_parser("bootstrap", help="print Envoy's bootstrap")
    print_bootstrap.add_argument(
        "--admin", default="127.0.0.1:9901", help="host:port or unix:path of Envoy's admin page"
    )
    arguments = parser.parse_args()
    try:
        settings = read_settings()
    except ValueError as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 2
    if arguments.command == "bootstrap":
        from gateway.edge.bootstrap import render

        sys.stdout.write(render(xds=settings.xds, admin=arguments.admin) + "\n")
        return 0
    from gateway.bootstrap import run

    return run_service("gateway", lambda stopping: run(settings, stopping), log_level=settings.observability.log_level)


if __name__ == "__main__":
    sys.exit(main())
