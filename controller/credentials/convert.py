"""Credentials as protobuf messages and events, without their secrets."""

from aiops.credentials.v1 import credential_events_pb2 as events_pb
from aiops.credentials.v1 import credential_service_pb2 as pb
from aiops.types.v1 import owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.credentials.model import Credential, CredentialChanged
from controller.events import Encoding, Encodings
from mesh.clock import unix_ms

TOPIC = "aiops.credentials.v1"


def credential_to_proto(credential: Credential) -> pb.Credential:
    """All but the secret."""
    message = pb.Credential(
        credential_id=credential.credential_id,
        name=credential.name,
        owner=owner_pb2.Owner(org_id=credential.org_id, user_id=credential.user_id),
        is_deleted=credential.deleted_at is not None,
    )
    for name in ("created_at", "changed_at", "deleted_at"):
        if (moment := getattr(credential, name)) is not None:
            stamp = Timestamp()
            stamp.FromDatetime(moment)
            getattr(message, name).CopyFrom(stamp)
    return message


def _changed(event: CredentialChanged) -> events_pb.CredentialChanged:
    return events_pb.CredentialChanged(
        type="system.credentialChanged",
        credential=credential_to_proto(event.credential),
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    CredentialChanged: Encoding(
        "system.credentialChanged", TOPIC, lambda event: str(event.credential.credential_id), _changed
    )
}
