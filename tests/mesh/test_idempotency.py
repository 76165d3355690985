"""A request id creates once, however often and however concurrently it comes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from mesh.errors import RequestIdReusedError
from mesh.identity import SYSTEM, OrgId
from mesh.sql.database import Database
from mesh.sql.idempotency import RequestIds, digest_of, request_ids

ORG = OrgId("org-1")


@pytest.fixture
async def pool(empty_database: str) -> AsyncIterator[Database]:
    pool = Database(empty_database)
    async with pool.engine.begin() as connection:
        await connection.run_sync(request_ids.create)
    yield pool
    await pool.dispose()


async def claim(pool: Database, request_id: str, object_id: str, asked: str = "a node", org: OrgId = ORG) -> str:
    async with pool.writing(SYSTEM) as connection:
        answer = await RequestIds(connection).claim(org, "RegisterNode", request_id, digest_of(asked), object_id)
        await connection.commit()
        return answer


async def test_a_repeated_request_answers_the_first_object(pool: Database) -> None:
    assert await claim(pool, "r1", "node-1") == "node-1"
    assert await claim(pool, "r1", "node-2") == "node-1"
    assert await claim(pool, "r2", "node-3") == "node-3"


async def test_an_organisation_does_not_meet_the_ids_of_another(pool: Database) -> None:
    assert await claim(pool, "r1", "node-1") == "node-1"
    assert await claim(pool, "r1", "node-2", org=OrgId("org-2")) == "node-2"


async def test_no_request_id_books_nothing(pool: Database) -> None:
    assert await claim(pool, "", "node-1") == "node-1"
    assert await claim(pool, "", "node-2") == "node-2"


async def test_the_same_id_for_another_request_is_refused(pool: Database) -> None:
    await claim(pool, "r1", "node-1")
    with pytest.raises(RequestIdReusedError):
        await claim(pool, "r1", "node-2", asked="another node")


async def test_concurrent_repeats_agree_on_one_object(pool: Database) -> None:
    answers = await asyncio.gather(*(claim(pool, "r1", f"node-{number}") for number in range(8)))
    assert len(set(answers)) == 1


async def test_a_rolled_back_claim_leaves_the_id_free(pool: Database) -> None:
    async with pool.writing(SYSTEM) as connection:
        await RequestIds(connection).claim(ORG, "RegisterNode", "r1", digest_of("a node"), "node-1")
    assert await claim(pool, "r1", "node-2") == "node-2"


async def test_ids_are_forgotten_after_a_day(pool: Database) -> None:
    await claim(pool, "r1", "node-1")
    async with pool.writing(SYSTEM) as connection:
        await connection.execute(text("UPDATE request_ids SET created_at = now() - interval '25 hours'"))
        await connection.commit()
    assert await claim(pool, "r1", "node-2") == "node-2"
