"""The use cases of API keys."""

from collections.abc import Collection
from datetime import timedelta

from controller.iam.model import API_KEY_DAYS, ApiKey, ApiKeyCreated, ApiKeyId, ApiKeyRevoked, api_key_roles
from controller.iam.service import UnitOfWork
from controller.iam.signing import Signers
from mesh.clock import Clock
from mesh.errors import RequestIdReusedError
from mesh.identity import Caller, new_id
from mesh.loops import Wake
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest


class ApiKeys:
    """API keys: everyone sees and revokes their own; who manages users, those of the organisation."""

    def __init__(self, unit_of_work: UnitOfWork, signers: Signers, clock: Clock, revoked: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._signers = signers
        self._clock = clock
        self._revoked = revoked

    async def page(self, caller: Caller, page: PageRequest) -> Page[ApiKey]:
        """The keys that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.api_keys.page(caller, page)

    async def create(
        self, caller: Caller, *, name: str, roles: Collection[str], ttl_days: int, request_id: str
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is kept nowhere; so repeating a request id is RequestIdReusedError."""
        now = self._clock.now()
        signer = self._signers.at(now)
        key = ApiKey(
            api_key_id=ApiKeyId(new_id("apikey")),
            name=name,
            roles=api_key_roles(caller, roles),
            org_id=caller.org_id,
            user_id=caller.user_id,
            key_id=signer.key_id,
            created_at=now,
            expires_at=now + timedelta(days=ttl_days or API_KEY_DAYS),
        )
        async with self._unit_of_work(caller) as work:
            asked = digest_of(name, key.roles, ttl_days)
            booked = await work.requests.claim(caller.org_id, "CreateApiKey", request_id, asked, key.api_key_id)
            if booked != key.api_key_id:
                raise RequestIdReusedError("the secret of an API key is not kept; create a new key", api_key_id=booked)
            await work.users.get(caller.user_id, caller, lock=True)
            await work.api_keys.add(key)
            await work.commit(ApiKeyCreated(key.api_key_id, key.user_id, key.org_id, now))
        return key, signer.api_key(key)

    async def revoke(self, caller: Caller, api_key_id: ApiKeyId) -> None:
        """Ends a key; repeating it changes nothing."""
        now = self._clock.now()
        async with self._unit_of_work(caller) as work:
            key = await work.api_keys.get(api_key_id, caller)
            if await work.api_keys.revoke(api_key_id, now):
                await work.commit(ApiKeyRevoked(key.api_key_id, key.user_id, key.org_id, now))
        self._revoked.set()
