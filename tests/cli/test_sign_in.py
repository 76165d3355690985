"""Signing in: stored privately, renewed without asking, and explained when it does not work."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stack.ports import free_port
from tests.fixtures.platform import Platform


@pytest.fixture
def file(platform: Platform) -> Path:
    """The credentials file, empty at first."""
    path = Path(platform.environment["AIOPS_CONFIG"])
    path.unlink(missing_ok=True)
    return path


def stored(file: Path) -> dict[str, Any]:
    """The one credential in the file."""
    (credential,) = json.loads(file.read_text()).values()
    assert isinstance(credential, dict)
    return credential


def change(file: Path, **fields: object) -> None:
    """Write something else into the one credential."""
    entries = json.loads(file.read_text())
    for credential in entries.values():
        credential.update(fields)
    file.write_text(json.dumps(entries))


def test_the_local_admin_is_signed_in_with_a_note(platform: Platform, file: Path) -> None:
    done = platform.aiops("whoami")
    assert done.returncode == 0, done.stderr
    assert "admin@localhost" in done.stdout
    assert "signing in as admin@localhost" in done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert "signing in" not in platform.aiops("whoami").stderr


def test_login_reads_the_password_from_standard_input(platform: Platform, file: Path, tmp_path: Path) -> None:
    away = {"AIOPS_HOME": str(tmp_path)}
    assert platform.aiops("whoami", **away).returncode == 4
    done = platform.aiops(
        "login", "--email", "admin@localhost", "--password-stdin", stdin=platform.admin_password, **away
    )
    assert done.returncode == 0, done.stderr
    assert platform.aiops("whoami", **away).returncode == 0
    assert platform.aiops("logout", **away).returncode == 0
    done = platform.aiops("whoami", **away)
    assert (done.returncode, done.stdout) == (4, "")
    assert "run `aiops login`" in done.stderr


def test_a_wrong_password_is_refused_with_what_to_do(platform: Platform, file: Path) -> None:
    done = platform.aiops("login", "--email", "nobody@localhost", "--password-stdin", stdin="wrong")
    assert done.returncode == 4
    assert "reason: LOGIN_FAILED" in done.stderr
    assert "next: check e-mail address and password" in done.stderr
    assert not file.exists()


def test_an_old_access_token_is_renewed_once_by_many_commands(platform: Platform, file: Path) -> None:
    platform.aiops("whoami")
    before = stored(file)
    change(file, expires_at=0)
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: platform.aiops("whoami"), range(3)))
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 3
    after = stored(file)
    assert after["refresh_token"] != before["refresh_token"]
    assert after["expires_at"] > 0


def test_a_token_of_another_platform_is_replaced(platform: Platform, file: Path) -> None:
    platform.aiops("whoami")
    change(file, access_token="a.b.c", refresh_token="unknown")
    done = platform.aiops("whoami")
    assert done.returncode == 0, done.stderr
    assert "signing in as admin@localhost" in done.stderr


def test_an_api_key_needs_no_sign_in(platform: Platform, file: Path) -> None:
    done = platform.aiops("whoami", AIOPS_API_KEY="not.a.token")
    assert done.returncode == 4
    assert not file.exists()


def test_nothing_there_says_how_to_start_it(platform: Platform) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = platform.aiops("--url", url, "nodes", "ls", AIOPS_API_KEY="x")
    assert done.returncode == 3
    assert f"nothing answers at {url}" in done.stderr
    assert "next: start it with `aiops up`" in done.stderr


def test_a_url_that_is_none_is_a_usage_error(platform: Platform) -> None:
    done = platform.aiops("nodes", "ls", AIOPS_URL="localhost:8080")
    assert done.returncode == 2
    assert "no URL of a gateway" in done.stderr
