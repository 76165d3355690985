"""`python -m controller`: runs the controller until SIGTERM."""

import sys

from controller.bootstrap import run
from controller.settings import read_settings
from mesh.process import run_service


def main() -> int:
    """Reads the settings and runs."""
    try:
        settings = read_settings()
    except ValueError as error:
        sys.stderr.write(f"controller: {error}\n")
        return 2
    return run_service(
        "controller", lambda stopping: run(settings, stopping), log_level=settings.observability.log_level
    )


if __name__ == "__main__":
    sys.exit(main())
