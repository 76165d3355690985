"""Secrets as the controller sends them, given to Envoys that ask for them by their credentials' ids."""

from aiops.credentials.v1 import credential_service_pb2 as pb
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from gateway.policies.clusters import ALONE
from gateway.xds.cache import SECRETS, Cache, resource


def publish_secrets(cache: Cache, state: pb.WatchProviderSecretsResponse) -> None:
    """Publishes what is shown to providers, from the next request on; what is not there any more is taken back."""
    found = {
        each.credential_id: resource(_secret(each.credential_id, f"Bearer {each.secret}")) for each in state.secrets
    }
    alone = {f"{each.credential_id}{ALONE}": each.secret for each in state.secrets}
    found |= {name: resource(_secret(name, secret)) for name, secret in alone.items()}
    cache.drop(SECRETS, cache.of(SECRETS).keys() - found.keys())
    cache.put(SECRETS, found)
    cache.mark_complete(SECRETS)


def _secret(name: str, shown: str) -> secret_pb2.Secret:
    built = secret_pb2.Secret(name=name)
    built.generic_secret.secret.inline_string = shown
    return built
