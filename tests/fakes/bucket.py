"""Objects behind signed addresses: an HTTP server that takes each signature only while it is good."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_EXPIRED = (
    "<Error><Code>AccessDenied</Code><Message>Request has expired</Message>"
    "<SignatureProvided>{signature}</SignatureProvided></Error>"
)


class Bucket(http.server.ThreadingHTTPServer):
    """Answers for objects by path; `good` are the signatures that it takes now."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.objects: dict[str, bytes] = {}
        self.good: set[str] = set()
        self.asked: list[str] = []
        # Answers end after so many bytes; so many of them.
        self.cut_after, self.cuts = 0, 0
        self.knows_ranges = True
        self.status = 0

    def address(self, path: str, signature: str) -> str:
        """Where the object can be read with the signature."""
        return f"http://127.0.0.1:{self.server_port}/{path}?X-Amz-Signature={signature}"


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Bucket

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        signature, content = parse_qs(parts.query)["X-Amz-Signature"][0], self.server.objects.get(parts.path[1:])
        self.server.asked.append(signature)
        if self.server.status:
            self._refuse(self.server.status, b"")
        elif signature not in self.server.good:
            self._refuse(403, _EXPIRED.format(signature=signature).encode())
        elif content is None:
            self._refuse(404, b"")
        else:
            self._give(content)

    def _refuse(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _give(self, content: bytes) -> None:
        asked = _RANGE.fullmatch(self.headers.get("Range", "")) if self.server.knows_ranges else None
        part = content[int(asked[1]) : int(asked[2]) + 1] if asked else content
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            part = part[: self.server.cut_after]
        with suppress(ConnectionError):  # whoever expected something else has gone
            self.wfile.write(part)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    """A bucket that listens while the block lasts."""
    with Bucket() as bucket:
        thread = threading.Thread(target=bucket.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield bucket
        finally:
            bucket.shutdown()
            thread.join()
