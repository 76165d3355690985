"""Forms with files (multipart/form-data, RFC 7578), read as they come."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message

LONGEST_HEAD = 16 * 1024
LONGEST_FIELD = 64 * 1024


class BrokenFormError(Exception):
    """The body is no such form."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field. A file's content has to be read before the next part."""

    name: str
    filename: str
    content: AsyncIterator[bytes]

    async def text(self) -> str:
        """A short field's value."""
        read = b""
        async for piece in self.content:
            read += piece
            if len(read) > LONGEST_FIELD:
                raise BrokenFormError(f"the field {self.name} is too long")
        return read.decode(errors="replace")


def boundary_of(content_type: str) -> bytes:
    """What stands between parts. BrokenFormError when it is no form."""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise BrokenFormError("the body is no multipart/form-data with a boundary")
    return boundary.encode("latin-1", errors="replace")


class Form:
    """The parts of a body, one after the other."""

    def __init__(self, boundary: bytes, body: AsyncIterator[bytes]) -> None:
        self._mark = b"\r\n--" + boundary
        self._body = body
        # So that the first mark is found as the others are.
        self._buffer = bytearray(b"\r\n")

    async def parts(self) -> AsyncIterator[Part]:
        """Every part. What is left of a part's content is passed over."""
        await self._drain()
        while (await self._take(2)) != b"--":
            part = await self._part()
            yield part
            async for _ in part.content:
                pass

    async def _part(self) -> Part:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > LONGEST_HEAD:
                raise BrokenFormError("a part's head is too long")
            await self._more()
        head = bytes(self._buffer[:end]).decode(errors="replace")
        del self._buffer[: end + 4]
        found = re.search(r"(?im)^content-disposition: *form-data *;(.*)$", head)
        named = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[1] if found else ""))
        if "name" not in named:
            raise BrokenFormError("a part has no name")
        return Part(named["name"], named.get("filename", ""), self._content())

    async def _content(self) -> AsyncIterator[bytes]:
        while (end := self._buffer.find(self._mark)) < 0:
            # The end may be the beginning of a mark.
            if sure := max(0, len(self._buffer) - len(self._mark)):
                yield bytes(self._buffer[:sure])
                del self._buffer[:sure]
            await self._more()
        if end:
            yield bytes(self._buffer[:end])
        del self._buffer[: end + len(self._mark)]
        # Whoever reads on finds nothing more of this part.
        return

    async def _drain(self) -> None:
        async for _ in self._content():
            pass

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _more(self) -> None:
        piece = await anext(self._body, b"")
        if not piece:
            raise BrokenFormError("the form ends before its last mark")
        self._buffer += piece
