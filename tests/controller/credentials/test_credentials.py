"""Secrets of providers go in sealed, come out to the gateway alone, and stay while a route needs them."""

import asyncio
from typing import Any

from aiops.credentials.v1 import credential_service_pb2 as pb
from aiops.credentials.v1.credential_service_pb2_grpc import ProviderSecretServiceStub
from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import route_service_pb2 as routes_pb
from sqlalchemy import text

from mesh.identity import SYSTEM
from mesh.rpc.channel import open_channel
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, ROUTER, STRANGER, Metadata, Rooms

SECRET = "sk-very-secret"
GATEWAY: Metadata = (("authorization", "Bearer service gateway"),)


async def create(rooms: Rooms, name: str = "openai", by: Metadata = EDITOR, **fields: Any) -> pb.Credential:
    request = pb.CreateCredentialRequest(name=name, **{"secret": SECRET, **fields})
    return (await rooms.credentials.CreateCredential(request, metadata=by)).credential


async def lead_to(rooms: Rooms, by: Metadata = EDITOR, **fields: Any) -> route_pb2.Route:
    provider = {"model": "gpt", "weight": 1, "provider": route_pb2.RouteTarget.openai}
    wish = routes_pb.RouteWish(name="far", targets=[route_pb2.RouteTarget(**{**provider, **fields})])
    return (await rooms.routes.CreateRoute(routes_pb.CreateRouteRequest(route=wish), metadata=by)).route


async def told(call: Any) -> dict[str, str]:
    message = await asyncio.wait_for(call.read(), 30)
    return {each.credential_id: each.secret for each in message.secrets}


async def test_a_secret_is_sealed_and_never_shown(rooms: Rooms) -> None:
    made = await create(rooms)
    listed = await rooms.credentials.ListCredentials(pb.ListCredentialsRequest(), metadata=EDITOR)
    assert list(listed.credentials) == [made]
    assert (await rooms.credentials.ListCredentials(pb.ListCredentialsRequest(), metadata=STRANGER)).credentials == []
    async with rooms.database.reading(SYSTEM) as connection:
        row = str((await connection.execute(text("SELECT * FROM credentials"))).one())
        booked = str((await connection.execute(text("SELECT * FROM request_ids"))).all())
    assert "v1:" in row
    events = await rooms.events("system.credentialChanged")
    assert len(events) == 1
    for shown in (row, booked, str(events), str(made)):
        assert SECRET not in shown


async def test_only_the_gateway_gets_secrets_and_hears_of_every_change(rooms: Rooms) -> None:
    async with open_channel(rooms.address) as channel:
        stub = ProviderSecretServiceStub(channel)
        for stranger in (EDITOR, ROUTER):
            call: Any = stub.WatchProviderSecrets(pb.WatchProviderSecretsRequest(), metadata=stranger)
            assert (await refusal(call.read())).reason == "PERMISSION_DENIED"
        call = stub.WatchProviderSecrets(pb.WatchProviderSecretsRequest(), metadata=GATEWAY)
        assert await told(call) == {}
        made = await create(rooms)
        assert await told(call) == {made.credential_id: SECRET}
        rotate = pb.RotateCredentialRequest(credential_id="openai", secret="sk-other")
        await rooms.credentials.RotateCredential(rotate, metadata=EDITOR)
        assert await told(call) == {made.credential_id: "sk-other"}
        await rooms.credentials.DeleteCredential(pb.DeleteCredentialRequest(credential_id="openai"), metadata=EDITOR)
        assert await told(call) == {}
        call.cancel()


async def test_a_credential_stays_while_a_route_needs_it(rooms: Rooms) -> None:
    made = await create(rooms)
    await lead_to(rooms, credential_id=made.credential_id)
    delete = pb.DeleteCredentialRequest(credential_id=made.credential_id)
    error = await refusal(rooms.credentials.DeleteCredential(delete, metadata=EDITOR))
    assert (error.reason, error.metadata["routes"]) == ("CREDENTIAL_IN_USE", "far")
    await rooms.routes.DeleteRoute(routes_pb.DeleteRouteRequest(route_id="far"), metadata=EDITOR)
    await rooms.credentials.DeleteCredential(delete, metadata=EDITOR)
    assert (await refusal(rooms.credentials.DeleteCredential(delete, metadata=EDITOR))).reason == "CREDENTIAL_NOT_FOUND"


async def test_a_route_takes_only_credentials_of_its_organisation_and_addresses_outside(rooms: Rooms) -> None:
    made = await create(rooms)
    compatible = {"provider": route_pb2.RouteTarget.openai_compatible}
    for fields, at_fault in (
        ({"credential_id": made.credential_id, "by": STRANGER}, "credential_id"),
        ({"credential_id": "openai"}, "credential_id"),
        ({**compatible, "base_url": "http://127.0.0.1:9901"}, "base_url"),
        ({**compatible, "base_url": "http://169.254.169.254/latest"}, "base_url"),
        ({**compatible, "base_url": "http://2130706433/"}, "base_url"),
        ({**compatible, "base_url": "http://[::1]/v1"}, "base_url"),
        ({**compatible, "base_url": "https://localhost/v1"}, "base_url"),
        ({"ca_pem": "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----"}, "ca_pem"),
    ):
        error = await refusal(lead_to(rooms, **fields))
        assert (error.reason, error.violations[0].field) == ("INVALID_REQUEST", f"route.targets[0].{at_fault}")


async def test_names_are_unique_and_repeats_answer_the_same(rooms: Rooms) -> None:
    first = await create(rooms, request_id="once")
    assert await create(rooms, request_id="once") == first
    assert (await refusal(create(rooms))).reason == "CREDENTIAL_EXISTS"
    await create(rooms, by=STRANGER)
