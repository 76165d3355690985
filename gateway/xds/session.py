"""What one Envoy has, and what it should get next: the incremental xDS protocol without its transport."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from envoy.service.discovery.v3 import discovery_pb2

from gateway.xds.cache import CLUSTERS, ENDPOINTS, ORDER, ROUTES, Cache, Resource

log = logging.getLogger(__name__)
WILDCARD = "*"
# Types that Envoy always asks for as a whole.
ALL_OF_TYPE = frozenset(kind for kind in ORDER if kind.endswith((".Cluster", ".Listener")))


@dataclass(slots=True)
class Push:
    """A response on its way: versions sent, names removed."""

    kind: str
    versions: dict[str, str]
    removed: list[str]


@dataclass(slots=True)
class Subscription:
    """One type as the Envoy has it: names asked for, versions accepted, versions it refused."""

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    accepted: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    asked_again: set[str] = field(default_factory=set)

    def wants(self, name: str) -> bool:
        """Whether the Envoy asked for the resource."""
        return self.wildcard or name in self.names

    def lacks(self, name: str, resource: Resource) -> bool:
        """Whether the resource should be sent."""
        have = self.accepted.get(name)
        if name in self.asked_again:
            return True
        if have == resource.version or self.refused.get(name) == resource.version:
            return False
        return have is None or not resource.provisional


class Session:
    """The state of one stream. Feed it requests with `receive`; `next_push` says what to send now, if anything."""

    def __init__(self, cache: Cache, on_refusal: Callable[[str, str], None]) -> None:
        self._cache = cache
        self._on_refusal = on_refusal
        self._subscriptions: dict[str, Subscription] = {}
        self._in_flight: dict[str, Push] = {}
        self._nonces = count(1)

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        """Takes in a subscription, an acknowledgement or a refusal."""
        kind = request.type_url
        if kind not in ORDER:
            log.warning("an Envoy asks for %s, which this gateway does not serve", kind)
            return
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            subscription = self._first(request)
        if request.response_nonce:
            self._settle(subscription, request)
        self._subscribe(subscription, request)

    def next_push(self, *, patient: bool = True) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """The next response: additions in make-before-break order, then removals.

        Patient, it holds routes back until their clusters are accepted, and removals until nothing refers to them.
        """
        busy = {push.kind for push in self._in_flight.values()}
        for kind in ORDER:
            if patient and kind == ROUTES and (busy or not self._clusters_are_complete()):
                return None
            push = None if kind in busy else self._additions(kind)
            if push is not None:
                return self._send(push)
        if busy and patient:
            return None
        removals = (self._removals(kind) for kind in ORDER if kind not in busy)
        return next((self._send(push) for push in removals if push is not None), None)

    def _first(self, request: discovery_pb2.DeltaDiscoveryRequest) -> Subscription:
        subscription = self._subscriptions[request.type_url] = Subscription(
            accepted=dict(request.initial_resource_versions)
        )
        if request.type_url in ALL_OF_TYPE and not request.resource_names_subscribe:
            subscription.wildcard = True
        # A reconnecting Envoy lists what it has; those names it wants still.
        if not subscription.wildcard:
            subscription.names |= set(request.initial_resource_versions)
        return subscription

    def _subscribe(self, subscription: Subscription, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        asked, dropped = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        if WILDCARD in asked:
            subscription.wildcard = True
        if WILDCARD in dropped:
            subscription.wildcard = False
        # Asking again for what one has means: send it again.
        subscription.asked_again |= (
            asked & subscription.accepted.keys() & subscription.names - request.initial_resource_versions.keys()
        )
        subscription.names = (subscription.names | asked - {WILDCARD}) - dropped
        for name in dropped:
            subscription.accepted.pop(name, None)

    def _settle(self, subscription: Subscription, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        push = self._in_flight.pop(request.response_nonce, None)
        if push is None:
            return
        if request.HasField("error_detail"):
            subscription.refused.update(push.versions)
            self._on_refusal(push.kind, request.error_detail.message)
            return
        subscription.accepted.update(push.versions)
        for name in push.removed:
            subscription.accepted.pop(name, None)

    def _additions(self, kind: str) -> Push | None:
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            return None
        present = self._cache.of(kind)
        names = present if subscription.wildcard else subscription.names & present.keys()
        changed = {name: present[name].version for name in names if subscription.lacks(name, present[name])}
        return Push(kind, changed, []) if changed else None

    def _removals(self, kind: str) -> Push | None:
        subscription = self._subscriptions.get(kind)
        if subscription is None or not self._cache.is_complete(kind):
            return None
        gone = subscription.accepted.keys() - self._cache.of(kind).keys()
        return Push(kind, {}, sorted(gone)) if gone else None

    def _send(self, push: Push) -> discovery_pb2.DeltaDiscoveryResponse:
        nonce = str(next(self._nonces))
        self._in_flight[nonce] = push
        subscription = self._subscriptions[push.kind]
        subscription.asked_again -= push.versions.keys()
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=push.kind, nonce=nonce, removed_resources=push.removed)
        present = self._cache.of(push.kind)
        for name in push.versions:
            sent = response.resources.add(name=name, version=push.versions[name])
            sent.resource.CopyFrom(present[name].body)
        return response

    def _clusters_are_complete(self) -> bool:
        """Whether the endpoints of every accepted cluster have been asked for, which follows a moment later."""
        endpoints, clusters = self._subscriptions.get(ENDPOINTS), self._subscriptions.get(CLUSTERS)
        expected = self._cache.of(ENDPOINTS).keys() & clusters.accepted.keys() if clusters else set()
        return expected <= (endpoints.names if endpoints else set())
