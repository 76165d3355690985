"""The words of placement: what is asked, what nodes hold already, and what a plan answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from controller.models.model import Architecture, ModelId
from controller.nodes.model import Node, NodeId
from mesh.identity import OrgId

# The value of a label that asks for the label, whatever its value.
ANY_VALUE = "*"
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Options:
    """How a deployment is to be served and where it may go; 0 and empty leave a choice open.

    `context` is in tokens of one request, `concurrency` is how many whole contexts are kept at once, `gpu_count` how
    many cards of one node share the weights (tensor parallel). A higher `priority` may evict a lower one.
    """

    context: int = 0
    concurrency: int = 0
    gpu_count: int = 0
    required_labels: Labels = ()
    forbidden_labels: Labels = ()
    priority: int = 0


NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class PeakKey:
    """What a measured peak was measured of: one shape of serving one revision of a model."""

    model_id: ModelId
    digest: str
    engine: str
    devices: int
    context: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that was measured, in megabytes of each device or of RAM, and how often it was looked at."""

    mb: int
    samples: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be placed. `node_id`, `gpu_devices` and `port` override the choice; what is empty is left open.

    Only nodes of `org_id` are looked at; None looks at all. `peaks` are what was measured of this revision before.
    It failed on the nodes to `avoid`.
    """

    model_id: ModelId
    model_name: str
    framework: str
    task: str
    weights_bytes: int
    architecture: Architecture | None
    node_id: NodeId | None = None
    gpu_devices: tuple[str, ...] = ()
    port: int = 0
    org_id: OrgId | None = None
    digest: str = ""
    image: str = ""
    options: Options = NO_OPTIONS
    peaks: Mapping[PeakKey, Peak] = field(default_factory=dict)
    avoid: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True)
class Claim:
    """What an active deployment holds on a node.

    `memory_mb` is per device, or of RAM without devices. `settled_mb` is how much of it the node's reading of free
    memory already shows.
    """

    deployment_id: str
    model_id: ModelId
    memory_mb: int
    gpu_devices: tuple[str, ...] = ()
    port: int = 0
    settled_mb: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node and what is claimed on it."""

    node: Node
    claims: tuple[Claim, ...] = ()


class Cause(Enum):
    """Why a node is not chosen."""

    NOT_ELIGIBLE = "not_eligible"
    LABELS = "labels"
    ENGINE = "engine"
    DEVICE = "device"
    PORT = "port"
    MEMORY = "memory"
    OTHER_PREFERRED = "other_preferred"


@dataclass(frozen=True, slots=True)
class NodeRefusal:
    """Why a node is not chosen, in words too."""

    node_id: NodeId
    node_name: str
    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How many nodes are not chosen for one cause."""

    cause: Cause
    nodes: int


@dataclass(frozen=True, slots=True)
class Eviction:
    """A deployment of lower priority that has to make room, and why; `memory_mb` is what it holds over all devices."""

    deployment_id: str
    priority: int
    memory_mb: int
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the deployment goes. `memory_mb` over all devices.

    `ready_s` is an estimate of the seconds until it serves. `tallies` count the other nodes by cause; `refusals`
    explain each of them in a small fleet and the nearest few of each cause in a large one.
    """

    node_id: NodeId
    node_name: str
    gpu_devices: tuple[str, ...]
    memory_mb: int
    port: int
    engine: str
    explanation: str
    refusals: tuple[NodeRefusal, ...] = ()
    tallies: tuple[Tally, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    ready_s: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """No node can take it; counted and explained as in a placement."""

    refusals: tuple[NodeRefusal, ...]
    tallies: tuple[Tally, ...] = ()


class UnfitError(Exception):
    """A node cannot take the demand; for use inside this room."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason
