"""`python -m stack.session_health PORT`: exit status 0 while the agent's session is open, for health checks."""

import asyncio
import sys

from stack.probes import session_missing


def main(arguments: list[str]) -> int:
    """PORT is the agent's AIOPS_METRICS_PORT."""
    missing = asyncio.run(session_missing(int(arguments[0])))
    if missing:
        sys.stderr.write(f"{missing}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
