"""A machine becomes a node by a token for one use; its certificate is worth nothing once the node is removed."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
from aiops.nodes.v1 import node_service_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeEnrollmentServiceStub, NodeSessionServiceStub
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mesh.pki import SpiffeId, create_request, identity_of
from mesh.rpc.channel import ClientTls, open_channel
from tests.fakes.agent import join, open_token
from tests.fixtures.fleet import OWNER, SESSION_ADDRESS, Fleet
from tests.fixtures.iam import refusal


async def try_join(fleet: Fleet, secret: str, der: bytes | None = None) -> pb.JoinResponse:
    """Joins with a secret; AioRpcError when refused."""
    (fleet.home / "authority.crt").write_bytes(fleet.authority.pem)
    async with open_channel(fleet.joining, ClientTls(fleet.home / "authority.crt")) as channel:
        request = pb.JoinRequest(token=secret, certificate_request=der or create_request().der)
        return await NodeEnrollmentServiceStub(channel).Join(request)


async def test_joining_gives_a_certificate_over_the_key_of_the_request(fleet: Fleet) -> None:
    machine = await fleet.machine()
    pem = (machine.home / "node.crt").read_bytes()
    assert identity_of(pem) == SpiffeId("node", machine.node_id)
    key = load_pem_private_key((machine.home / "node.key").read_bytes(), password=None)
    assert x509.load_pem_x509_certificate(pem).public_key() == key.public_key()


async def test_joining_says_where_sessions_are_and_until_when_the_certificate_lasts(fleet: Fleet) -> None:
    secret, _ = open_token((await fleet.register()).join_token)
    answer = await try_join(fleet, secret)
    assert answer.session_address == SESSION_ADDRESS
    assert answer.authority.encode() == fleet.authority.pem
    left = answer.expires_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)


async def test_a_token_works_once_even_for_many_at_the_same_moment(fleet: Fleet) -> None:
    secret, _ = open_token((await fleet.register()).join_token)
    results = await asyncio.gather(*(try_join(fleet, secret) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, pb.JoinResponse) for each in results) == 1
    error = await refusal(try_join(fleet, secret))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "JOIN_TOKEN_INVALID")


async def test_a_machine_whose_answer_was_lost_joins_again_with_its_own_key(fleet: Fleet) -> None:
    secret, _ = open_token((await fleet.register()).join_token)
    request = create_request()
    answers = await asyncio.gather(*(try_join(fleet, secret, request.der) for _ in range(3)))
    again = await try_join(fleet, secret, request.der)
    assert {each.node_id for each in answers} == {again.node_id}
    pem = again.certificate.encode()
    assert identity_of(pem) == SpiffeId("node", again.node_id)
    key = load_pem_private_key(request.key_pem, password=None)
    assert x509.load_pem_x509_certificate(pem).public_key() == key.public_key()
    # Nobody else does, and nor does the machine itself once the token is over.
    assert (await refusal(try_join(fleet, secret))).reason == "JOIN_TOKEN_INVALID"
    await fleet.pass_time(timedelta(minutes=15, seconds=1))
    assert (await refusal(try_join(fleet, secret, request.der))).reason == "JOIN_TOKEN_INVALID"


async def test_a_forged_token_is_refused(fleet: Fleet) -> None:
    await fleet.register()
    assert (await refusal(try_join(fleet, "x" * 43))).reason == "JOIN_TOKEN_INVALID"
    assert (await refusal(try_join(fleet, "short"))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_token_runs_out_after_fifteen_minutes(fleet: Fleet) -> None:
    secret, _ = open_token((await fleet.register()).join_token)
    await fleet.pass_time(timedelta(minutes=15, seconds=1))
    assert (await refusal(try_join(fleet, secret))).reason == "JOIN_TOKEN_INVALID"


async def test_a_new_token_ends_the_earlier_one(fleet: Fleet) -> None:
    registered = await fleet.register()
    request = node_service_pb2.CreateJoinTokenRequest(node_id=registered.node.node_id)
    fresh = await fleet.nodes.CreateJoinToken(request, metadata=OWNER)
    assert (await refusal(try_join(fleet, open_token(registered.join_token)[0]))).reason == "JOIN_TOKEN_INVALID"
    await try_join(fleet, open_token(fresh.join_token)[0])


async def test_a_request_that_its_key_did_not_sign_is_refused_and_uses_up_no_token(fleet: Fleet) -> None:
    secret, _ = open_token((await fleet.register()).join_token)
    forged = bytearray(create_request().der)
    forged[-1] ^= 1
    error = await refusal(try_join(fleet, secret, bytes(forged)))
    assert error.reason == "CERTIFICATE_REQUEST_INVALID"
    await try_join(fleet, secret)


async def test_a_removed_node_joins_no_more(fleet: Fleet) -> None:
    registered = await fleet.register()
    request = node_service_pb2.DeleteNodeRequest(node_id=registered.node.node_id)
    await fleet.nodes.DeleteNode(request, metadata=OWNER)
    assert (await refusal(try_join(fleet, open_token(registered.join_token)[0]))).reason == "JOIN_TOKEN_INVALID"


async def test_a_node_renews_its_certificate_with_a_new_key(fleet: Fleet) -> None:
    machine = await fleet.machine()
    request = create_request()
    async with machine.stub(fleet.mesh) as stub:
        answer = await stub.RenewCertificate(pb.RenewCertificateRequest(certificate_request=request.der))
    assert identity_of(answer.certificate.encode()) == SpiffeId("node", machine.node_id)
    (machine.home / "node.crt").write_text(answer.certificate)
    (machine.home / "node.key").write_bytes(request.key_pem)
    async with machine.session(fleet.mesh) as stream:
        assert (await stream.welcome()).session_epoch == 1


async def test_a_removed_nodes_certificate_is_refused(fleet: Fleet) -> None:
    machine = await fleet.machine()
    await fleet.nodes.DeleteNode(node_service_pb2.DeleteNodeRequest(node_id=machine.node_id), metadata=OWNER)
    async with machine.stub(fleet.mesh) as stub:
        error = await refusal(
            stub.RenewCertificate(pb.RenewCertificateRequest(certificate_request=create_request().der))
        )
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NODE_REMOVED")
    async with machine.session(fleet.mesh) as stream:
        assert (await refusal(stream.hear())).reason == "NODE_REMOVED"


async def test_sessions_are_for_nodes_with_a_certificate_of_ours(fleet: Fleet) -> None:
    machine = await fleet.machine()
    request = pb.RenewCertificateRequest(certificate_request=create_request().der)
    async with open_channel(fleet.mesh, ClientTls(machine.home / "ca.crt")) as channel:
        assert (
            await refusal(NodeSessionServiceStub(channel).RenewCertificate(request))
        ).code is grpc.StatusCode.UNAVAILABLE
    async with open_channel(fleet.api) as channel:
        stub = NodeSessionServiceStub(channel)
        assert (await refusal(stub.RenewCertificate(request))).code is grpc.StatusCode.UNAUTHENTICATED
        error = await refusal(stub.RenewCertificate(request, metadata=OWNER))
        assert error.code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_node_that_joins_again_keeps_its_identity(fleet: Fleet) -> None:
    machine = await fleet.machine()
    request = node_service_pb2.CreateJoinTokenRequest(node_id=machine.node_id)
    token = await fleet.nodes.CreateJoinToken(request, metadata=OWNER)
    invited = node_service_pb2.RegisterNodeResponse(join_token=token.join_token)
    assert (await join(invited, fleet.joining, machine.home)).node_id == machine.node_id
