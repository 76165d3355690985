"""One node as placement compares it: what is free there, worked out once for all plans until something changes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from controller.models.model import ModelId
from controller.nodes.devices import GpuDevice
from controller.nodes.model import Node, NodeId, NodeRole, NodeStatus
from controller.placement.model import Candidate, Claim
from mesh.identity import OrgId

# What a node keeps for itself.
RESERVED_RAM_MB = 256
# vLLM on a processor is chosen only where there is so much RAM; its node agent follows the same rule.
VLLM_CPU_FREE_MB = 6_000

_BOUNDLESS = 2**62


class Kind(NamedTuple):
    """What nodes have in common that decides about an engine, before any memory is counted."""

    org_id: OrgId
    status: NodeStatus
    removed: bool
    worker: bool
    engines: tuple[str, ...]
    gpu: bool
    roomy: bool
    usable: bool
    containers: bool = False
    disk_full: bool = False


class Relief(NamedTuple):
    """What there would be at most if one claim went: megabytes on the freest of the cards it is on, or of RAM."""

    priority: int
    memory_mb: int
    mb: int


class Seat:
    """A node with what is claimed on it. Numbers are megabytes; lists begin with the most.

    `free` is what each card has that may share a model with others, `single_free` the most that any one device has,
    slices of cards included. `shared` is what is left where no untouched card is broken into: on cards that hold a
    claim already, and on slices. `ram` is the processor's, `room` the most that there is in one piece, and `reliefs`
    say what there would be if one claim went, in the order of the claims.
    """

    __slots__ = (
        "candidate", "count", "devices", "free", "held", "kind", "label_names", "labels", "least_priority", "node_id",
        "ports", "preference", "ram", "reliefs", "room", "shared", "shared_count", "single_free",
    )  # fmt: skip

    def __init__(self, candidate: Candidate) -> None:
        node, claims = candidate.node, candidate.claims
        gauges = node.gauges
        self.candidate = candidate
        self.node_id: NodeId = node.node_id
        self.kind = _kind(node)
        self.labels = frozenset(node.labels.items())
        self.label_names = node.labels.keys()
        self.ports = frozenset(claim.port for claim in claims if claim.port)
        self.devices = {each.device_id: device_free(each, claims) for each in gauges.gpu_devices if each.usable}
        self.ram = 0 if gauges.gpu_devices else ram_free(node, claims)
        self.held = held = {device for claim in claims for device in claim.gpu_devices}
        whole = [each.device_id for each in gauges.gpu_devices if each.usable and not each.mig_profile]
        self.free = tuple(sorted((self.devices[each] for each in whole), reverse=True))
        self.count = len(self.free)
        self.single_free = max(self.devices.values(), default=0)
        cut = held | (self.devices.keys() - set(whole))
        self.shared = tuple(sorted((self.devices[each] for each in self.devices if each in cut), reverse=True))
        self.shared_count = len(self.shared)
        self.room = max(self.ram, self.single_free)
        self.reliefs = tuple(Relief(each.priority, each.memory_mb, self._freed(each)) for each in claims)
        self.least_priority = min((claim.priority for claim in claims), default=None)
        # Spread: the least crowded first, then the one with the most room, then by id so that every plan is the same.
        self.preference = (len(claims), -(self.ram + sum(self.devices.values())), self.node_id)

    @property
    def node(self) -> Node:
        return self.candidate.node

    @property
    def claims(self) -> tuple[Claim, ...]:
        return self.candidate.claims

    def still(self, candidate: Candidate) -> bool:
        """Takes in the node as it is now, when nothing that plans compare has changed; whether that is so."""
        if candidate.claims != self.claims or _compared(candidate.node) != _compared(self.node):
            return False
        self.candidate = candidate
        return True

    def room_for(self, size: int) -> int:
        """What there is on each of so many cards, or of RAM for 0."""
        if size == 1:
            return self.single_free
        if size == 0:
            return self.ram
        return self.free[size - 1] if self.count >= size else 0

    def shared_room(self, cards: int) -> int:
        """What there is on each of so many cards without breaking into an untouched one; no limit for 0."""
        if not cards:
            return _BOUNDLESS
        return self.shared[cards - 1] if self.shared_count >= cards else 0

    def replicas(self, model_id: ModelId) -> int:
        """How many claims are of the model."""
        return sum(claim.model_id == model_id for claim in self.claims)

    def without(self, evicted: Iterable[Claim]) -> "Seat":
        """The node as it would be with some claims gone, and what they use given back."""
        gone = set(evicted)
        kept = tuple(claim for claim in self.claims if claim not in gone)
        seat = Seat(Candidate(_given_back(self.node, gone), kept))
        # The node chooses its engine before anything has made room.
        seat.kind = self.kind
        return seat

    def _freed(self, claim: Claim) -> int:
        if not claim.gpu_devices:
            return self.ram + claim.memory_mb
        cards = (each for each in self.node.gauges.gpu_devices if each.device_id in claim.gpu_devices)
        # One that an engine has for itself is whole again.
        freed = (
            each.memory_total if each.single else self.devices[each.device_id] + claim.memory_mb
            for each in cards
            if each.usable
        )
        return max(freed, default=0)


def _compared(node: Node) -> tuple[object, ...]:
    """What of a node its seat is made of."""
    gauges = node.gauges
    ram = () if gauges.gpu_devices else (gauges.ram_free, gauges.ram_total)
    return (_kind(node), node.labels, ram, [each.capacity for each in gauges.gpu_devices])


def device_free(device: GpuDevice, claims: Sequence[Claim]) -> int:
    """What an engine may still take of a device: by the node's reading, and by the claims alone.

    A slice, or a card for one process alone, is all or nothing.
    """
    mine = [claim for claim in claims if device.device_id in claim.gpu_devices]
    if not device.usable or (device.single and mine):
        return 0
    return available(device.memory_free, device.memory_total, mine)


def ram_free(node: Node, claims: Sequence[Claim]) -> int:
    """What an engine may still take of the node's RAM."""
    mine, gauges = [claim for claim in claims if not claim.gpu_devices], node.gauges
    return available(gauges.ram_free - RESERVED_RAM_MB, gauges.ram_total - RESERVED_RAM_MB, mine)


def available(free_mb: int, total_mb: int, claims: Sequence[Claim]) -> int:
    """What nobody uses and nobody will: by the node's reading, and by the claims alone."""
    unsettled = sum(max(0, claim.memory_mb - claim.settled_mb) for claim in claims)
    return max(0, min(free_mb - unsettled, total_mb - sum(claim.memory_mb for claim in claims)))


def _kind(node: Node) -> Kind:
    gpu = bool(node.gauges.gpu_devices)
    return Kind(
        node.org_id,
        node.status,
        node.deleted_at is not None,
        NodeRole.WORKER in node.role,
        node.engines,
        gpu,
        gpu or node.gauges.ram_free >= VLLM_CPU_FREE_MB,
        not gpu or any(each.usable for each in node.gauges.gpu_devices),
        node.gauges.runtimes.runs_containers,
        # Not a megabyte is left; a node that does not tell its disk's size has room.
        0 == node.gauges.disk_free < node.gauges.disk_total,
    )


def _given_back(node: Node, gone: Iterable[Claim]) -> Node:
    gauges, claims = node.gauges, list(gone)
    devices = tuple(
        replace(
            each,
            memory_free=each.memory_free
            + sum(claim.settled_mb for claim in claims if each.device_id in claim.gpu_devices),
        )
        for each in gauges.gpu_devices
    )
    ram = sum(claim.settled_mb for claim in claims if not claim.gpu_devices)
    return replace(node, gauges=replace(gauges, gpu_devices=devices, ram_free=gauges.ram_free + ram))
