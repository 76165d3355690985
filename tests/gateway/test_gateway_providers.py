"""Providers outside, through a real Envoy: over TLS that is checked, with a credential that nobody else sees."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from mesh.pki import issue_service
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.routes import outside, policy, target
from tests.fixtures.edge import Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET, ROTATED = "sk-first-secret", "sk-second-secret"


def authority(home: Path) -> str:
    return (home / "pki" / "ca.crt").read_text()


def server_tls(home: Path) -> ssl.SSLContext:
    """What a provider at 127.0.0.1 shows, signed by the edge's own authority."""
    certificate, key = issue_service(home / "pki", "provider", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def providers(edge: Edge) -> AsyncIterator[dict[str, Engine]]:
    """A provider over TLS, one without, and an engine of the platform, and routes to them."""
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(running_engine("far", server_tls(edge.home)))
        plain = await stack.enter_async_context(running_engine("plain"))
        own = await stack.enter_async_context(running_engine("own"))
        for engine in (far, plain, own):
            engine.release.set()
        ca = authority(edge.home)
        key = "credential-1"
        trusted = outside(far.port, tls=True, ca_pem=ca, credential_id=key)
        await edge.show(**{"credential-1": SECRET})
        await edge.route(
            policies=[
                policy("far-away", trusted),
                policy("distrusted", outside(far.port, tls=True, credential_id=key)),
                policy("open", outside(plain.port)),
                policy("unknown-key", outside(plain.port, credential_id="credential-unknown")),
                policy(
                    "spare", outside(far.port, tls=True, ca_pem=ca, credential_id=key), target(own), fallbacks="own"
                ),
                policy(
                    "reserve",
                    target(Engine("gone", port=1), weight=1),
                    outside(far.port, tls=True, ca_pem=ca, weight=0, credential_id=key),
                    fallbacks="outside",
                ),
            ]
        )
        await edge.until_chat(200, "far-away", seconds=30)
        yield {"far": far, "plain": plain, "own": own}


async def test_a_provider_is_asked_in_its_own_words_with_its_credential(
    edge: Edge, providers: dict[str, Engine]
) -> None:
    answer = await edge.chat("far-away", "hello")
    assert (answer.status_code, answer.json()["served_by"]) == (200, "far")
    seen = providers["far"].seen[-1]
    assert seen.path == "/proxy/v1/chat/completions"
    assert json.loads(seen.body)["model"] == "far"
    assert seen.headers["authorization"] == f"Bearer {SECRET}"
    assert seen.headers["host"] == f"127.0.0.1:{providers['far'].port}"
    assert not [name for name in seen.headers if name.startswith("x-")]


async def test_a_stream_comes_through(edge: Edge, providers: dict[str, Engine]) -> None:
    body = {"model": "far-away", "stream": True, "messages": [{"role": "user", "content": "one two"}]}
    async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    assert (len(lines), lines[-1]) == (3, "data: [DONE]")


async def test_a_certificate_of_an_unknown_authority_is_not_trusted(edge: Edge, providers: dict[str, Engine]) -> None:
    asked = len(providers["far"].seen)
    assert (await edge.chat("distrusted")).status_code == 503
    assert len(providers["far"].seen) == asked


async def test_without_a_credential_nothing_is_shown_and_a_missing_one_is_asked_for(
    edge: Edge, providers: dict[str, Engine]
) -> None:
    assert (await edge.chat("open")).status_code == 200
    assert "authorization" not in providers["plain"].seen[-1].headers
    asked = len(providers["plain"].seen)
    assert (await edge.chat("unknown-key")).status_code in (401, 404, 503)
    assert len(providers["plain"].seen) == asked


async def test_a_credential_never_reaches_another_target(edge: Edge, providers: dict[str, Engine]) -> None:
    assert (await edge.chat("reserve")).json()["served_by"] == "far"
    assert providers["far"].seen[-1].headers["authorization"] == f"Bearer {SECRET}"
    assert (await edge.chat("spare")).json()["served_by"] == "far"
    assert not any("authorization" in seen.headers for seen in providers["own"].seen)


async def test_a_rotated_credential_is_shown_from_then_on(edge: Edge, providers: dict[str, Engine]) -> None:
    await edge.show(**{"credential-1": ROTATED})

    async def shown() -> bool:
        await edge.chat("far-away")
        return providers["far"].seen[-1].headers["authorization"] == f"Bearer {ROTATED}"

    await edge.until(shown, seconds=30)
    await edge.show(**{"credential-1": SECRET})


async def test_the_credential_is_in_no_dump_and_no_log(edge: Edge, providers: dict[str, Engine]) -> None:
    await edge.chat("far-away")
    dump = await edge.admin("/config_dump?include_eds")
    assert "credential-1" in dump
    logs = await asyncio.to_thread(lambda: [path.read_text() for path in edge.home.glob("*.log")])
    for text in (dump, *logs):
        assert SECRET not in text
        assert ROTATED not in text
