"""`python -m inference_router`: serves the routing table until SIGTERM."""

import sys

from inference_router.bootstrap import run
from inference_router.settings import read_settings
from mesh.process import run_service


def main() -> int:
    """Reads the settings and runs."""
    try:
        settings = read_settings()
    except ValueError as error:
        sys.stderr.write(f"inference_router: {error}\n")
        return 2
    return run_service(
        "inference_router", lambda stopping: run(settings, stopping), log_level=settings.observability.log_level
    )


if __name__ == "__main__":
    sys.exit(main())
