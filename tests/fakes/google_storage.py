"""A bucket of Google Cloud Storage that takes uploads from anybody and gives objects to those with a signed address.

It checks signatures as "V4 signing process with your own program" of Google's documentation has it.
"""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

# Addresses are signed for Google's own host, whichever one answers.
_SIGNED_HOST = "storage.googleapis.com"


class GoogleBucket(http.server.ThreadingHTTPServer):
    """Objects by path; signatures are those of the account's `key`."""

    daemon_threads = True

    def __init__(self, account: str, key: rsa.RSAPublicKey) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.account, self.key = account, key
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def refusal(self, target: str) -> str:
        """The code of what is wrong with a signed address; empty when nothing is."""
        parts = urlsplit(target)
        asked = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        signature = asked.pop("X-Goog-Signature", "")
        if not signature:
            return "AccessDenied"
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(asked.items()))
        canonical = f"GET\n{parts.path}\n{query}\nhost:{_SIGNED_HOST}\n\nhost\nUNSIGNED-PAYLOAD"
        account, _, scope = asked["X-Goog-Credential"].partition("/")
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"{asked['X-Goog-Algorithm']}\n{asked['X-Goog-Date']}\n{scope}\n{digest}"
        try:
            self.key.verify(bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError):
            return "SignatureDoesNotMatch"
        begun = datetime.strptime(asked["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if datetime.now(UTC) > begun + timedelta(seconds=int(asked["X-Goog-Expires"])):
            return "ExpiredToken"
        return "" if account == self.account else "AccessDenied"


class _Answers(http.server.BaseHTTPRequestHandler):
    server: GoogleBucket

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[unquote(urlsplit(self.path).path)] = content
        self._answer(200, b"", hashlib.sha256(content).hexdigest())

    def do_GET(self) -> None:
        refusal = self.server.refusal(self.path)
        content = self.server.objects.get(unquote(urlsplit(self.path).path))
        if refusal or content is None:
            status = 404 if not refusal else 400 if refusal == "ExpiredToken" else 403
            self._answer(status, f"<Error><Code>{refusal}</Code><Message>No.</Message></Error>".encode())
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        self._answer(206, content[int(first) : int(last) + 1])

    def _answer(self, status: int, content: bytes, etag: str = "") -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@contextmanager
def running_google_bucket(account: str, key: rsa.RSAPublicKey) -> Iterator[GoogleBucket]:
    """A bucket that listens while the block lasts."""
    with GoogleBucket(account, key) as bucket:
        thread = threading.Thread(target=bucket.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield bucket
        finally:
            bucket.shutdown()
            thread.join()
