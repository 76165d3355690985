"""How every room's events are told."""

from controller.conversations import convert as conversations
from controller.credentials import convert as credentials
from controller.deployments import convert as deployments
from controller.events import Encodings
from controller.flags import convert as flags
from controller.iam import convert as iam
from controller.models import convert as models
from controller.models import download_convert as downloads
from controller.nodes import encodings as nodes
from controller.quotas import convert as quotas
from controller.replica_sets import convert as replica_sets
from controller.rollouts import convert as rollouts
from controller.routing import convert as routing
from controller.routing import rules_convert as routing_rules
from controller.system import convert as system

EVENTS: Encodings = {
    **iam.EVENTS,
    **nodes.EVENTS,
    **nodes.FLEET_EVENTS,
    **models.EVENTS,
    **downloads.EVENTS,
    **deployments.EVENTS,
    **replica_sets.EVENTS,
    **conversations.EVENTS,
    **credentials.EVENTS,
    **quotas.EVENTS,
    **routing.EVENTS,
    **rollouts.EVENTS,
    **flags.EVENTS,
    **routing_rules.EVENTS,
    **system.EVENTS,
}
