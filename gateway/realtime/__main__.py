"""`python -m gateway.realtime`: serves sockets until SIGTERM."""

import sys

from gateway.settings import read_realtime
from mesh.process import run_service


def main() -> int:
    """Reads the settings and runs."""
    try:
        settings = read_realtime()
    except ValueError as error:
        sys.stderr.write(f"realtime: {error}\n")
        return 2
    from gateway.realtime.bootstrap import run

    return run_service("realtime", lambda stopping: run(settings, stopping), log_level=settings.observability.log_level)


if __name__ == "__main__":
    sys.exit(main())
