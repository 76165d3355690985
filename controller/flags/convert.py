"""Flags as protobuf messages and events, and wishes back."""

from dataclasses import asdict

from aiops.flags.v1 import flag_events_pb2 as events_pb
from aiops.flags.v1 import flag_service_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict

from controller.events import Encoding, Encodings
from controller.flags.model import Flag, FlagChanged, Rule, Wish
from mesh.clock import unix_ms

TOPIC = "aiops.flags.v1"


def flag_to_proto(flag: Flag) -> pb.Flag:
    """A flag."""
    wish = flag.wish
    message = pb.Flag(
        name=wish.name,
        description=wish.description,
        default_variant=wish.default_variant,
        disabled=wish.disabled,
        rules=[pb.FlagRule(**asdict(rule)) for rule in wish.rules],
        version=flag.version,
    )
    for name, value in wish.variants.items():
        ParseDict(value, message.variants[name])
    message.changed_at.FromDatetime(flag.changed_at)
    return message


def wish_from_proto(request: pb.SetFlagRequest) -> Wish:
    """What is asked of a flag."""
    return Wish(
        name=request.name,
        variants={name: MessageToDict(value) for name, value in request.variants.items()},
        default_variant=request.default_variant,
        rules=tuple(
            Rule(rule.variant, tuple(rule.user_ids), tuple(rule.org_ids), rule.percent) for rule in request.rules
        ),
        description=request.description,
        disabled=request.disabled,
    )


def _changed(event: FlagChanged) -> events_pb.FlagChanged:
    return events_pb.FlagChanged(
        type="system.flagChanged",
        org_id=event.flag.org_id,
        flag=flag_to_proto(event.flag),
        is_deleted=event.is_deleted,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    FlagChanged: Encoding(
        "system.flagChanged", TOPIC, lambda event: f"{event.flag.org_id}/{event.flag.wish.name}", _changed
    ),
}
