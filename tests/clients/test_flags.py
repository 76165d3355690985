"""The OpenFeature provider evaluates what the platform told last, and says when that is old."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import Reason

from client.flags import FlagProvider, choose, place

FLAGS: list[dict[str, Any]] = [
    {
        "name": "beta",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "rules": [
            {"variant": "on", "userIds": ["ann"], "orgIds": [], "percent": 0},
            {"variant": "on", "userIds": [], "orgIds": ["org-b"], "percent": 30},
        ],
    },
    {"name": "model", "variants": {"small": "tiny"}, "defaultVariant": "small", "rules": []},
    {"name": "limit", "variants": {"some": 5, "more": 7.5}, "defaultVariant": "some", "rules": []},
    {"name": "theme", "variants": {"dark": {"ink": "white"}}, "defaultVariant": "dark", "rules": []},
    {"name": "old", "variants": {"on": True}, "defaultVariant": "on", "disabled": True, "rules": []},
]


class Platform:
    """What a gateway answers to `GET /flags`, a flag a page; `away` refuses everything."""

    def __init__(self) -> None:
        self.flags, self.away = FLAGS, False

    @contextmanager
    def serving(self) -> Iterator[str]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                at = int(self.path.rpartition("pageToken=")[2] or 0)
                token = str(at + 1) if at + 1 < len(platform.flags) else ""
                body = json.dumps({"flags": platform.flags[at : at + 1], "nextPageToken": token}).encode()
                authorized = self.headers["authorization"] == "Bearer key-1"
                self.send_response(503 if platform.away else 200 if authorized else 401)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def provider(platform: Platform) -> Iterator[FlagProvider]:
    with platform.serving() as url:
        # So long that only the test itself reads the flags anew.
        provider = FlagProvider(url, "key-1", every_s=3600)
        api.set_provider_and_wait(provider, "flags-of-tests")
        yield provider
        api.clear_providers()


@pytest.fixture
def client(provider: FlagProvider) -> OpenFeatureClient:
    return api.get_client("flags-of-tests")


def somebody(key: str = "bob", **attributes: str) -> EvaluationContext:
    return EvaluationContext(key, dict(attributes))


def test_flags_of_every_kind_have_their_variant(client: OpenFeatureClient) -> None:
    assert client.get_string_value("model", "?") == "tiny"
    assert client.get_integer_value("limit", 0) == 5
    assert client.get_float_value("limit", 0.0) == 5.0
    assert client.get_object_value("theme", {}) == {"ink": "white"}
    details = client.get_boolean_details("beta", True, somebody())
    assert (details.value, details.variant, details.reason) == (False, "off", Reason.DEFAULT)
    targeted = client.get_boolean_details("beta", False, somebody("ann"))
    assert (targeted.value, targeted.reason) == (True, Reason.TARGETING_MATCH)
    assert client.get_boolean_details("old", False).reason == Reason.DISABLED


def test_what_is_not_there_or_of_another_kind_is_the_programs_default(client: OpenFeatureClient) -> None:
    missing = client.get_boolean_details("gone", True)
    assert (missing.value, missing.error_code) == (True, ErrorCode.FLAG_NOT_FOUND)
    other = client.get_boolean_details("model", True)
    assert (other.value, other.error_code) == (True, ErrorCode.TYPE_MISMATCH)
    assert client.get_integer_details("beta", 3).error_code is ErrorCode.TYPE_MISMATCH


def test_a_percentage_is_of_the_same_users_each_time() -> None:
    users = [f"user-{number}" for number in range(2000)]
    chosen = [choose(FLAGS[0], somebody(user, org_id="org-b"))[0] == "on" for user in users]
    assert chosen == [choose(FLAGS[0], somebody(user, org_id="org-b"))[0] == "on" for user in users]
    assert 0.25 < sum(chosen) / len(users) < 0.35
    assert not any(choose(FLAGS[0], somebody(user))[0] == "on" for user in users)
    # Nobody who is unknown is among a percentage.
    assert choose(FLAGS[0], EvaluationContext(attributes={"org_id": "org-b"}))[0] == "off"
    # The same place for every client that there is.
    assert round(place("beta", "on", "user-1"), 3) == 18.846


def test_while_the_platform_is_away_the_last_flags_stay_and_are_called_stale(
    platform: Platform, provider: FlagProvider, client: OpenFeatureClient
) -> None:
    # The SDK calls handlers in threads of its own.
    stale, changed = Queue[EventDetails](), Queue[EventDetails]()
    client.add_handler(ProviderEvent.PROVIDER_STALE, stale.put)
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, changed.put)
    platform.away = True
    assert not provider.refresh()
    assert not provider.refresh()
    details = client.get_boolean_details("beta", False, somebody("ann"))
    assert (details.value, details.reason) == (True, Reason.STALE)
    platform.away, platform.flags = False, FLAGS[1:]
    assert provider.refresh()
    assert client.get_boolean_details("beta", False).error_code is ErrorCode.FLAG_NOT_FOUND
    assert client.get_string_details("model", "?").reason == Reason.DEFAULT
    assert stale.get(timeout=30).message
    assert changed.get(timeout=30).flags_changed == ["beta"]


def test_without_the_platform_from_the_beginning_programs_have_their_defaults(platform: Platform) -> None:
    platform.away = True
    with platform.serving() as url:
        provider = FlagProvider(url, "key-1", every_s=3600)
        with pytest.raises(ProviderNotReadyError):
            api.set_provider_and_wait(provider, "flags-of-nobody")
        client = api.get_client("flags-of-nobody")
        assert client.get_string_value("model", "own") == "own"
        platform.away = False
        assert provider.refresh()
        assert client.get_string_value("model", "own") == "tiny"
        api.clear_providers()
