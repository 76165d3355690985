"""Keys and revocations as the controller sends them, turned into the filters that check tokens."""

from aiops.iam.v1 import auth_service_pb2 as pb
from envoy.config.core.v3 import extension_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from gateway.edge.filters import JWT, REVOCATIONS
from gateway.edge.messages import packed
from gateway.edge.trust import revocations, token_verification
from gateway.xds.cache import FILTERS, Cache, Resource, resource


def publish_trust(cache: Cache, trust: pb.WatchTokenTrustResponse) -> None:
    """Publishes what tokens are checked against, from the next request on."""
    keys = [json_format.MessageToDict(key) for key in trust.keys]
    cache.put(
        FILTERS,
        {
            JWT: _filter(JWT, token_verification(keys)),
            REVOCATIONS: _filter(REVOCATIONS, revocations(trust.revoked_token_ids)),
        },
    )


def _filter(name: str, config: Message) -> Resource:
    return resource(extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config)))
