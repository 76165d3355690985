"""The last routing table on disk, so that a restart serves it while the controller is away."""

import hashlib
import logging
import os
from pathlib import Path

from aiops.routing.v1 import routing_service_pb2 as pb

from inference_router.routing.convert import TableMessages, table_from_proto
from inference_router.routing.table import RoutingTable

log = logging.getLogger(__name__)


class TableFile:
    """One file: the SHA-256 of the table in hex, a line break, the table as a message.

    It is written with every change, so it is not JSON: that took longer than all else that a change costs here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._messages = TableMessages()

    def load(self) -> RoutingTable | None:
        """The table that was saved last; None when there is none, or the file is damaged."""
        try:
            digest, _, content = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest().encode() != digest:
            log.warning("%s is damaged and is not used", self._path)
            return None
        return table_from_proto(pb.RoutingTable.FromString(content))

    def save(self, table: RoutingTable) -> None:
        """Replaces the file; whoever reads it sees the old table or the new one, whole."""
        content = self._messages.whole(table).SerializeToString()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.new")
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
