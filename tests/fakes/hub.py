"""A hub that speaks the Hugging Face API for models, and misbehaves on request.

Routes: `GET /api/models/{repo}[/revision/{revision}]`, `GET /api/models/{repo}/tree/{revision}`,
`HEAD|GET /{repo}/resolve/{commit}/{path}`. Large files are redirected to `/cdn/…`, as the hub does with its storage.
"""

import asyncio
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote

LARGE_FROM = 1024
PIECE = 64 * 1024
_REASONS = {200: "OK", 206: "Partial Content", 302: "Found"}


@dataclass
class HubRepo:
    """A repository. `granted` are the tokens that may read its files when it is gated."""

    files: dict[str, bytes]
    card: dict[str, object] = field(default_factory=lambda: {"license": "apache-2.0", "language": ["en"]})
    pipeline_tag: str = "text-generation"
    tags: list[str] = field(default_factory=lambda: ["safetensors", "text-generation"])
    gated: bool = False
    granted: set[str] = field(default_factory=set)

    @property
    def commit(self) -> str:
        """Changes with the files."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]


@dataclass
class FakeHub:
    """Repositories by name, and what goes wrong.

    `cuts` are byte counts after which answers to file requests break off, one an answer; `corrupt` is how many answers
    have a wrong byte; `hang` keeps answers back until it is set; `limit_rate` is how many calls get 429; `pause_s` is
    between pieces.
    """

    repos: dict[str, HubRepo] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    corrupt: int = 0
    limit_rate: int = 0
    break_down: int = 0
    pause_s: float = 0.0
    hold: asyncio.Event | None = None
    holds_after: int = 0
    asked: list[Asked] = field(default_factory=list)
    sent: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    url: str = ""
    open_files: int = 0

    def ranges(self, path: str) -> list[str]:
        """The Range headers with which a file's bytes were asked for, empty for none."""
        return [
            each.headers.get("range", "") for each in self.asked if each.path.endswith(path) and "/cdn/" in each.path
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection with one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.strip().split("\r\n")
            method, target, _ = request.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            asked = Asked(unquote(target.partition("?")[0]), headers)
            self.asked.append(asked)
            await self._answer(method, asked, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, method: str, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self.limit_rate > 0:
            self.limit_rate -= 1
            return await _say(writer, 429, {"retry-after": "0"}, b"{}")
        if self.break_down > 0:
            self.break_down -= 1
            return await _say(writer, 503, {}, b"")
        path = asked.path.removeprefix("/cdn")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            return await self._api(writer, found[1], found[2] or "", found[3] or "main")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return await self._file(method, writer, asked, found[1], found[3])
        return await _refuse(writer, 404, "EntryNotFound")

    async def _api(self, writer: asyncio.StreamWriter, name: str, part: str, revision: str) -> None:
        repo = self.repos.get(name)
        if repo is None:
            return await _refuse(writer, 401, "RepoNotFound")
        if revision not in ("main", repo.commit):
            return await _refuse(writer, 404, "RevisionNotFound")
        if part == "tree":
            entries = [_entry(path, content) for path, content in repo.files.items()]
            return await _say(writer, 200, {}, json.dumps(entries).encode())
        described = {
            "id": name,
            "sha": repo.commit,
            "gated": "manual" if repo.gated else False,
            "pipeline_tag": repo.pipeline_tag,
            "tags": repo.tags,
            "cardData": repo.card,
            "siblings": [_sibling(path, content) for path, content in repo.files.items()],
        }
        return await _say(writer, 200, {}, json.dumps(described).encode())

    async def _file(self, method: str, writer: asyncio.StreamWriter, asked: Asked, name: str, path: str) -> None:
        repo = self.repos[name]
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        behind = asked.path.startswith("/cdn/")
        if repo.gated and not behind and token not in repo.granted:
            return await _refuse(writer, 403 if token else 401, "GatedRepo")
        content = repo.files[path]
        etag = {"etag": f'"{hashlib.sha256(content).hexdigest()}"', "x-repo-commit": repo.commit}
        if not behind and len(content) >= LARGE_FROM:
            size = {"x-linked-size": str(len(content)), "x-linked-etag": etag["etag"]}
            return await _say(writer, 302, {**etag, **size, "location": f"{self.url}/cdn{asked.path}"}, b"")
        begin = int(asked.headers.get("range", "bytes=0-")[6:].partition("-")[0])
        if begin >= len(content) > 0:
            return await _refuse(writer, 416, "RangeNotSatisfiable")
        status = 206 if "range" in asked.headers else 200
        span = {"content-range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if status == 206 else {}
        await _head(writer, status, {**etag, **span, "content-length": str(len(content) - begin)})
        if method == "GET":
            self.open_files += 1
            await self._send(writer, path, self._spoilt(content)[begin:] if behind else content[begin:])
        return None

    def _spoilt(self, content: bytes) -> bytes:
        if not self.corrupt:
            return content
        self.corrupt -= 1
        return content[:-1] + bytes([content[-1] ^ 1])

    async def _send(self, writer: asyncio.StreamWriter, path: str, content: bytes) -> None:
        left = self.cuts.pop(0) if self.cuts and len(content) >= LARGE_FROM else None
        for start in range(0, len(content), PIECE):
            piece = content[start : start + PIECE]
            if left is not None and left < len(piece):
                writer.write(piece[:left])
                await writer.drain()
                writer.transport.abort() if left == 0 else writer.close()
                return
            if self.hold is not None and start >= self.holds_after and len(content) >= LARGE_FROM:
                await self.hold.wait()
            writer.write(piece)
            await writer.drain()
            self.sent[path] += len(piece)
            left = None if left is None else left - len(piece)
            if self.pause_s:
                await asyncio.sleep(self.pause_s)


@asynccontextmanager
async def run_hub() -> AsyncIterator[FakeHub]:
    """A hub that listens until the block ends."""
    hub = FakeHub()
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with suppress(asyncio.CancelledError):
            await hub.serve(reader, writer)
        connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    hub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield hub
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def _sibling(path: str, content: bytes) -> dict[str, object]:
    entry = _entry(path, content)
    return {"rfilename": path, "size": len(content), "blobId": entry["oid"], "lfs": entry["lfs"]}


def _entry(path: str, content: bytes) -> dict[str, object]:
    blob = b"blob %d\0" % len(content) + content
    lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha1(blob, usedforsecurity=False).hexdigest(),
        "lfs": lfs if len(content) >= LARGE_FROM else None,
    }


async def _refuse(writer: asyncio.StreamWriter, status: int, code: str) -> None:
    await _say(writer, status, {"x-error-code": code, "x-error-message": code}, b"{}")


async def _say(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes) -> None:
    await _head(writer, status, {"content-type": "application/json", **headers, "content-length": str(len(body))})
    writer.write(body)
    await writer.drain()


async def _head(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Refused')}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await writer.drain()
