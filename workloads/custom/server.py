"""The smallest custom engine: it answers what it is asked, with the name of its model and who it runs as."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Other paths than the usual ones come as arguments.
HEALTH, INFERENCE = sys.argv[1:] or ("/health", "/v1/inference")


class Server(BaseHTTPRequestHandler):
    """`GET` of the health path, `POST` of the inference path, and `POST /eat` with a number of megabytes to take."""

    def do_GET(self) -> None:
        self._answer(200 if self.path == HEALTH else 404, {"status": "ok"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/eat":
            TAKEN.append(os.urandom(1024 * 1024) * int(body))
        asked = json.loads(body)
        answer = {"model": os.environ["AIOPS_MODEL_NAME"], "asked": asked, "uid": os.getuid()}
        self._answer(200 if self.path in {INFERENCE, "/eat"} else 404, answer)

    def _answer(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


TAKEN: "list[bytes]" = []

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    files = sorted(path.name for path in Path(os.environ["AIOPS_MODEL_DIR"]).iterdir())
    sys.stderr.write(f"serving {os.environ['AIOPS_MODEL_NAME']} from {files} on port {os.environ['AIOPS_PORT']}\n")
    address = (os.environ["AIOPS_HOST"], int(os.environ["AIOPS_PORT"]))
    ThreadingHTTPServer(address, Server).serve_forever()
