"""The resources every Envoy should have. A version is a digest of the content, so it is the same after a restart."""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from gateway.edge.messages import PREFIX, packed

CLUSTERS = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENERS = PREFIX + "envoy.config.listener.v3.Listener"
ROUTES = PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRETS = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
FILTERS = PREFIX + "envoy.config.core.v3.TypedExtensionConfig"

# Make before break: what is referred to is sent, and accepted, before what refers to it.
ORDER = (SECRETS, CLUSTERS, ENDPOINTS, FILTERS, LISTENERS, ROUTES)


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. A provisional one is a guess before the facts are known: it never replaces what an Envoy has."""

    version: str
    body: Any
    provisional: bool = False


def resource(built: Message, *, provisional: bool = False) -> Resource:
    """The resource that carries a message."""
    body = packed(built)
    return Resource(hashlib.blake2b(body.value, digest_size=12).hexdigest(), body, provisional)


class Cache:
    """Resources by type and name. Readers compare it with what their Envoy has; there is no queue to overflow."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, Resource]] = {kind: {} for kind in ORDER}
        self._watchers: set[asyncio.Event] = set()
        self._complete: set[str] = set()

    def of(self, kind: str) -> Mapping[str, Resource]:
        """The resources of one type."""
        return self._resources[kind]

    def put(self, kind: str, changes: Mapping[str, Resource]) -> None:
        """Adds or replaces resources."""
        self._resources[kind].update(changes)
        self._changed()

    def drop(self, kind: str, names: Iterable[str]) -> None:
        """Removes resources; unknown names are no error."""
        for name in list(names):
            self._resources[kind].pop(name, None)
        self._changed()

    def mark_complete(self, *kinds: str) -> None:
        """From now on what is not here is gone, for these types; before, it may only be unknown yet."""
        self._complete.update(kinds)
        self._changed()

    def is_complete(self, kind: str) -> bool:
        """Whether everything of this type is here."""
        return kind in self._complete

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever something changed."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            yield changed
        finally:
            self._watchers.discard(changed)

    def _changed(self) -> None:
        for watcher in self._watchers:
            watcher.set()
