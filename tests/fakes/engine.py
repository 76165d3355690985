"""An engine program with the command line of `transformers serve` that answers the same paths, and fails as told.

FAKE_ENGINE in its environment: `ok` (default), `exit` (ends at once with FAKE_EXIT_CODE), `silent` (never listens),
`unready` (healthy, but never answers a chat), `noisy` (writes its log without end), `stubborn` (ignores SIGTERM).
`POST /exit` ends it with the body as exit code. A model whose name ends in `-exits`, `-unready` or `-grows` is served
by an engine that ends at once, never answers a chat, or takes a megabyte with each answer and keeps it. Each answer
says who gave it, in `served_by`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BY_NAME = next(
    (mode for mode in ("exits", "unready", "grows") if sys.argv[2:3] and sys.argv[2].endswith("-" + mode)), ""
)
MODE = os.environ.get("FAKE_ENGINE") or {"exits": "exit"}.get(BY_NAME, BY_NAME) or "ok"
KEPT: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    """Answers as an engine does."""

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/health" else 404, {"status": "ok"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/exit":
            os._exit(int(body))
        if MODE == "unready":
            self._answer(503, {"error": "loading"})
            return
        if MODE == "grows":
            KEPT.append(os.urandom(1024) * 1024)
        question = json.loads(body)
        message = {"role": "assistant", "content": f"I am {question['model']}"}
        me = {"workload": os.environ.get("AIOPS_WORKLOAD", "").rpartition("#")[2], "pid": os.getpid()}
        choices = [{"index": 0, "message": message}]
        self._answer(200, {"model": question["model"], "choices": choices, "served_by": me})

    def log_request(self, *args: Any) -> None:
        sys.stderr.write(f"{self.command} {self.path}\n")

    def _answer(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    options = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=False))
    sys.stderr.write(f"engine starts as {sys.argv[2]} on port {options['--port']}\n")
    if MODE == "exit":
        sys.stderr.write(os.environ.get("FAKE_LAST_WORDS", "RuntimeError: the fake engine was told to fail") + "\n")
        sys.exit(int(os.environ.get("FAKE_EXIT_CODE", "3")))
    if MODE == "noisy":
        threading.Thread(target=make_noise, daemon=True).start()
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(3600)"], start_new_session=True)
    if MODE == "silent":
        time.sleep(3600)
    ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()


def make_noise() -> None:
    number = 0
    while True:
        number += 1
        sys.stderr.write(f"{number:08d} " + "x" * 1000 + "\n")
        if number % 100 == 0:
            time.sleep(0.001)


if __name__ == "__main__":
    main()
