"""Ports are free when they are chosen, and two stacks never choose the same."""

import os
import socket
from pathlib import Path

import pytest

from stack import settings
from stack.ports import ReservedPorts, free_port, holder, is_free


def test_a_listener_takes_its_port_and_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        assert f"(pid {os.getpid()})" in holder(port)
    assert is_free(port)


def test_what_one_stack_reserved_no_other_takes() -> None:
    first, second = ReservedPorts(), ReservedPorts()
    port = first.take()
    assert is_free(port)
    assert not second.claim(port)
    assert second.take(preferred=port) != port
    first.release()
    assert second.claim(port)
    second.release()


def test_inner_ports_give_way_and_the_gateways_does_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        chosen = settings.read({"AIOPS_HOME": str(tmp_path), "AIOPS_PORT": "0"})
        assert len({chosen.ports.gateway, chosen.ports.xds, chosen.ports.broker}) == 3
        chosen.ports.reserved.release()
        for name, text in (("AIOPS_PORT", f"{taken}"), ("AIOPS_XDS", f"127.0.0.1:{taken}")):
            with pytest.raises(settings.PortTakenError, match=rf"port {taken} is taken by .*{name}"):
                settings.read({"AIOPS_PORT": "0", name: text})


@pytest.mark.parametrize(
    ("name", "text"), [("AIOPS_PORT", "http"), ("AIOPS_PORT", "70000"), ("AIOPS_XDS", "0.0.0.0:1")]
)
def test_a_setting_that_is_no_port_is_named(name: str, text: str) -> None:
    with pytest.raises(settings.SettingError, match=name):
        settings.read({"AIOPS_PORT": str(free_port()), name: text})
