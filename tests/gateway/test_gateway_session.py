"""The incremental discovery protocol: what an Envoy is sent, in which order; what refusals and reconnects mean."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2

from gateway.xds.cache import CLUSTERS, ENDPOINTS, ROUTES, Cache, Resource, resource
from gateway.xds.session import Session


def cluster(name: str, seconds: int = 1) -> Resource:
    built = cluster_pb2.Cluster(name=name)
    built.connect_timeout.seconds = seconds
    return resource(built)


def endpoints(name: str) -> Resource:
    return resource(endpoint_pb2.ClusterLoadAssignment(cluster_name=name))


def routes(version: int = 0, *, provisional: bool = False) -> Resource:
    built = route_pb2.RouteConfiguration(name="public", internal_only_headers=[f"v{version}"])
    return resource(built, provisional=provisional)


class Envoy:
    """The other end of a session."""

    def __init__(self, cache: Cache) -> None:
        self.refusals: list[tuple[str, str]] = []
        self.session = Session(cache, lambda kind, why: self.refusals.append((kind, why)))

    def subscribe(self, kind: str, *names: str, has: dict[str, str] | None = None) -> None:
        self.session.receive(
            discovery_pb2.DeltaDiscoveryRequest(
                type_url=kind, resource_names_subscribe=names, initial_resource_versions=has or {}
            )
        )

    def acknowledge(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        self.session.receive(
            discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        )

    def refuse(self, response: discovery_pb2.DeltaDiscoveryResponse, why: str) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        request.error_detail.message = why
        self.session.receive(request)

    def next(self) -> discovery_pb2.DeltaDiscoveryResponse:
        response = self.session.next_push()
        assert response is not None
        return response

    def is_up_to_date(self) -> bool:
        return self.session.next_push() is None


def names(response: discovery_pb2.DeltaDiscoveryResponse) -> list[str]:
    return sorted(each.name for each in response.resources)


def test_only_what_changed_is_sent() -> None:
    cache = Cache()
    cache.put(CLUSTERS, {"a": cluster("a"), "b": cluster("b")})
    envoy = Envoy(cache)
    envoy.subscribe(CLUSTERS)
    first = envoy.next()
    assert names(first) == ["a", "b"]
    envoy.acknowledge(first)
    assert envoy.is_up_to_date()
    cache.put(CLUSTERS, {"a": cluster("a"), "b": cluster("b", seconds=2)})
    assert names(envoy.next()) == ["b"]


def test_nothing_of_a_type_is_sent_while_an_answer_is_due_so_nothing_queues_up() -> None:
    cache = Cache()
    cache.put(CLUSTERS, {"a": cluster("a")})
    envoy = Envoy(cache)
    envoy.subscribe(CLUSTERS)
    first = envoy.next()
    for seconds in range(2, 50):
        cache.put(CLUSTERS, {"a": cluster("a", seconds)})
        assert envoy.is_up_to_date()
    envoy.acknowledge(first)
    assert envoy.next().resources[0].version == cluster("a", 49).version


def test_routes_wait_for_the_clusters_that_they_lead_to() -> None:
    cache = Cache()
    cache.put(ROUTES, {"public": routes(1)})
    envoy = Envoy(cache)
    envoy.subscribe(CLUSTERS)
    envoy.subscribe(ROUTES, "public")
    envoy.acknowledge(envoy.next())
    cache.put(CLUSTERS, {"m": cluster("m")})
    cache.put(ENDPOINTS, {"m": endpoints("m")})
    cache.put(ROUTES, {"public": routes(2)})
    added = envoy.next()
    assert added.type_url == CLUSTERS
    assert envoy.is_up_to_date()
    envoy.acknowledge(added)
    # Accepted, but the Envoy has not asked for the endpoints yet.
    assert envoy.is_up_to_date()
    envoy.subscribe(ENDPOINTS, "m")
    filled = envoy.next()
    assert filled.type_url == ENDPOINTS
    assert envoy.is_up_to_date()
    envoy.acknowledge(filled)
    assert envoy.next().type_url == ROUTES


def test_routes_do_not_wait_for_ever() -> None:
    cache = Cache()
    cache.put(CLUSTERS, {"m": cluster("m")})
    cache.put(ROUTES, {"public": routes(1)})
    envoy = Envoy(cache)
    envoy.subscribe(CLUSTERS)
    envoy.subscribe(ROUTES, "public")
    assert envoy.next().type_url == CLUSTERS
    assert envoy.session.next_push() is None
    late = envoy.session.next_push(patient=False)
    assert late is not None
    assert late.type_url == ROUTES


def test_what_is_gone_is_removed_after_the_routes_have_changed() -> None:
    cache = Cache()
    cache.put(CLUSTERS, {"m": cluster("m"), "n": cluster("n")})
    cache.put(ROUTES, {"public": routes(1)})
    cache.mark_complete(CLUSTERS, ROUTES)
    envoy = Envoy(cache)
    envoy.subscribe(CLUSTERS)
    envoy.subscribe(ROUTES, "public")
    envoy.acknowledge(envoy.next())
    envoy.acknowledge(envoy.next())
    cache.put(ROUTES, {"public": routes(2)})
    cache.drop(CLUSTERS, ["m"])
    changed = envoy.next()
    assert changed.type_url == ROUTES
    assert envoy.is_up_to_date()
    envoy.acknowledge(changed)
    removed = envoy.next()
    assert (removed.type_url, list(removed.removed_resources)) == (CLUSTERS, ["m"])
    envoy.acknowledge(removed)
    assert envoy.is_up_to_date()


def test_a_refusal_is_reported_once_and_the_same_thing_is_not_sent_again() -> None:
    cache = Cache()
    cache.put(CLUSTERS, {"a": cluster("a")})
    envoy = Envoy(cache)
    envoy.subscribe(CLUSTERS)
    envoy.acknowledge(envoy.next())
    cache.put(CLUSTERS, {"a": cluster("a", seconds=2)})
    envoy.refuse(envoy.next(), "too slow")
    assert envoy.refusals == [(CLUSTERS, "too slow")]
    assert envoy.is_up_to_date()
    # Going back to what it has needs no message; something new is tried.
    cache.put(CLUSTERS, {"a": cluster("a")})
    assert envoy.is_up_to_date()
    cache.put(CLUSTERS, {"a": cluster("a", seconds=3)})
    assert names(envoy.next()) == ["a"]


def test_an_envoy_that_comes_back_gets_what_differs_and_loses_what_is_gone() -> None:
    cache = Cache()
    cache.put(CLUSTERS, {"same": cluster("same"), "new": cluster("new"), "changed": cluster("changed", 2)})
    cache.mark_complete(CLUSTERS)
    envoy = Envoy(cache)
    has = {"same": cluster("same").version, "changed": cluster("changed", 1).version, "gone": "x"}
    envoy.subscribe(CLUSTERS, has=has)
    changed = envoy.next()
    assert names(changed) == ["changed", "new"]
    envoy.acknowledge(changed)
    removed = envoy.next()
    assert list(removed.removed_resources) == ["gone"]


def test_before_the_first_table_nothing_is_taken_away_and_no_guess_replaces_what_is_there() -> None:
    cache = Cache()
    cache.put(CLUSTERS, {"api": cluster("api")})
    cache.put(ROUTES, {"public": routes(1, provisional=True)})
    envoy = Envoy(cache)
    envoy.subscribe(CLUSTERS, has={"api": cluster("api").version, "model": "x"})
    envoy.subscribe(ROUTES, "public", has={"public": "with models"})
    assert envoy.is_up_to_date()
    newcomer = Envoy(cache)
    newcomer.subscribe(CLUSTERS)
    newcomer.subscribe(ROUTES, "public")
    newcomer.acknowledge(newcomer.next())
    assert newcomer.next().type_url == ROUTES


def test_asking_again_for_a_resource_sends_it_again() -> None:
    cache = Cache()
    cache.put(ENDPOINTS, {"m": endpoints("m")})
    envoy = Envoy(cache)
    envoy.subscribe(ENDPOINTS, "m")
    envoy.acknowledge(envoy.next())
    # Envoy does so when a cluster is made anew and waits for its endpoints.
    envoy.subscribe(ENDPOINTS, "m")
    again = envoy.next()
    assert names(again) == ["m"]
    envoy.acknowledge(again)
    assert envoy.is_up_to_date()


def test_the_same_content_has_the_same_version_in_every_process() -> None:
    assert cluster("a").version == cluster("a").version
    assert cluster("a").version != cluster("b").version
