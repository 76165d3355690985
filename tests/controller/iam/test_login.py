"""Signing in with an e-mail address and a password."""

import grpc
from aiops.iam.v1 import user_service_pb2 as pb

from tests.fixtures.iam import ADMIN_PASSWORD, Identity, bearer, refusal


async def test_the_first_user_signs_in_and_sees_themself(identity: Identity) -> None:
    pair = await identity.login("Admin@LocalHost ", ADMIN_PASSWORD)
    assert (pair.token_type, pair.expires_in) == ("Bearer", 900)
    me = await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(pair.access_token))
    assert (me.user.email, list(me.user.roles), me.user.owner.org_id) == (
        "admin@localhost",
        ["universe.owner"],
        "default",
    )


async def test_an_unknown_address_and_a_wrong_password_are_refused_alike(identity: Identity) -> None:
    wrong = await refusal(identity.login("admin@localhost", "wrong"))
    unknown = await refusal(identity.login("nobody@localhost", "wrong"))
    assert wrong.code is grpc.StatusCode.UNAUTHENTICATED
    assert (wrong.reason, wrong.message) == ("LOGIN_FAILED", unknown.message)
    assert unknown.reason == "LOGIN_FAILED"
