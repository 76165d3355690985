"""A program that does what its first argument says, for tests of runtimes: it needs Python alone.

say WORDS · exit CODE · obey (ends well on SIGTERM) · stubborn (ignores it, and has a child that does too) ·
eat MEGABYTES (takes memory, then busy) · count (writes a number every 10 ms) · look (prints what it is allowed) ·
serve PORT (answers HTTP)
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    does, *words = sys.argv[1:]
    if does == "say":
        sys.stdout.write(" ".join(words) + "\n")
    elif does == "exit":
        os._exit(int(words[0]))
    elif does == "kill":
        os.kill(os.getpid(), int(words[0]))
    elif does == "obey":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        tell("ready")
        time.sleep(3600)
    elif does == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(3600)"], start_new_session=True)
        tell("ready")
        time.sleep(3600)
    elif does == "eat":
        food = bytearray(os.urandom(1024 * 1024) * int(words[0]))
        tell("full")
        while food:
            pass
    elif does == "count":
        for number in range(1_000_000):
            tell(f"{number:08d}")
            time.sleep(0.01)
    elif does == "look":
        tell(json.dumps(look(words)))
    elif does == "serve":
        serve(int(words[0]))


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def look(writable: "list[str]") -> "dict[str, object]":
    """What the kernel says this process may do."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    wanted = ("Uid", "Gid", "CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp")
    written = {path: can_write(Path(path) / "probe") for path in writable}
    return {**{name: status[name] for name in wanted}, "written": written, "children": children()}


def can_write(path: Path) -> bool:
    try:
        path.write_text("x")
    except OSError:
        return False
    return True


def children() -> int:
    """How many processes can be started before the limit."""
    started: list[int] = []
    try:
        while len(started) < 200:
            child = os.fork()
            if child == 0:
                time.sleep(3600)
            started.append(child)
    except OSError:
        pass
    for child in started:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(started)


def serve(port: int) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"served")

    HTTPServer(("0.0.0.0", port), Handler).serve_forever()  # noqa: S104 - inside a container


if __name__ == "__main__":
    main()
