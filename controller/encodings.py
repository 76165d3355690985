"""How every room's events are told."""

from controller.events import Encodings
from controller.iam import convert as iam
from controller.nodes import encodings as nodes

EVENTS: Encodings = {**iam.EVENTS, **nodes.EVENTS}
