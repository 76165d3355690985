"""Secrets as the controller sends them, given to Envoys that ask for them by their credentials' ids."""

from aiops.credentials.v1 import credential_service_pb2 as pb
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from gateway.xds.cache import SECRETS, Cache, resource


def publish_secrets(cache: Cache, state: pb.WatchProviderSecretsResponse) -> None:
    """Publishes what is shown to providers, from the next request on; what is not there any more is taken back."""
    found = {each.credential_id: resource(_secret(each)) for each in state.secrets}
    cache.drop(SECRETS, cache.of(SECRETS).keys() - found.keys())
    cache.put(SECRETS, found)
    cache.mark_complete(SECRETS)


def _secret(message: pb.ProviderSecret) -> secret_pb2.Secret:
    built = secret_pb2.Secret(name=message.credential_id)
    built.generic_secret.secret.inline_string = f"Bearer {message.secret}"
    return built
