"""Commands that become another program, and the help."""

from pathlib import Path

from tests.fixtures.platform import Platform, platform_in

COMMANDS = (
    "up demo status login logout whoami nodes models deploy deployments logs chat events node "
    "controller inference_router gateway node-agent"
)


def test_help_names_every_command_and_the_exit_codes(tmp_path: Path) -> None:
    done = platform_in(tmp_path).aiops("--help")
    assert done.returncode == 0
    assert not set(COMMANDS.split()) - set(done.stdout.split())
    assert "Exit codes" in done.stdout


def test_a_service_alone_says_which_setting_is_missing(tmp_path: Path) -> None:
    done = platform_in(tmp_path).aiops("controller")
    assert done.returncode == 2
    assert "AIOPS_DATABASE_URL is not set" in done.stderr


def test_an_agent_that_never_joined_says_how(tmp_path: Path) -> None:
    done = platform_in(tmp_path).aiops("node-agent")
    assert done.returncode == 78
    assert "aiops nodes join-token NAME" in done.stderr
    assert "aiops node join TOKEN" in done.stderr


def test_a_nonsense_join_token_is_refused(tmp_path: Path) -> None:
    done = platform_in(tmp_path).aiops("node", "join", "--controller", "https://127.0.0.1:1", "--token", "nonsense")
    assert done.returncode != 0
    assert "token" in done.stderr


def test_status_of_no_platform(tmp_path: Path) -> None:
    done = platform_in(tmp_path).aiops("status")
    assert done.returncode == 3
    assert "aiops up" in done.stderr


def test_status_of_a_running_platform(platform: Platform) -> None:
    state = platform.aiops_json("status")
    assert state["url"] == platform.url
    assert "MB in all" in platform.aiops("status").stdout
