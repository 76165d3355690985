"""The last routing table on disk, so that a restart serves it while the controller is away."""

import hashlib
import logging
import os
from pathlib import Path

from aiops.routing.v1 import routing_service_pb2 as pb
from google.protobuf import json_format

from inference_router.routing.convert import table_from_proto, table_to_proto
from inference_router.routing.table import RoutingTable

log = logging.getLogger(__name__)


class TableFile:
    """One file: the SHA-256 of the table in hex, a line break, the table as ProtoJSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> RoutingTable | None:
        """The table that was saved last; None when there is none, or the file is damaged."""
        try:
            digest, _, content = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest().encode() != digest:
            log.warning("%s is damaged and is not used", self._path)
            return None
        message = json_format.Parse(content, pb.RoutingTable(), ignore_unknown_fields=True)
        return table_from_proto(message)

    def save(self, table: RoutingTable) -> None:
        """Replaces the file; whoever reads it sees the old table or the new one, whole."""
        content = json_format.MessageToJson(table_to_proto(table), indent=None).encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.new")
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
