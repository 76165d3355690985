"""The agent's small parts on their own: journal, status queue, settings, ports."""

import asyncio
import os
import resource
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from node_agent.journal.journal import Journal, JournalWriteError
from node_agent.runtime.ports import PortInUseError, bind_host, claim_port, is_free
from node_agent.session.statuses import StatusQueue
from node_agent.settings import read_settings
from node_agent.workloads.model import Event, State, WorkloadId, WorkloadKey, WorkloadStatus

STATUS = WorkloadStatus(WorkloadKey(WorkloadId("dep-1"), 0), 1, State.DOWNLOADING)


async def test_a_journal_reads_what_it_wrote_and_the_latest_wins(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    assert journal.load() == {}
    await asyncio.gather(*(journal.save({"number": number}) for number in range(20)))
    assert journal.load() == {"number": 19}


@pytest.mark.parametrize("content", [b"", b"{}", b"0" * 64 + b"\n{}"])
async def test_a_broken_journal_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.json"
    path.write_bytes(content)
    assert Journal(path).load() is None
    assert (tmp_path / "journal.broken").read_bytes() == content
    assert Journal(path).load() == {}


async def test_a_journal_that_cannot_be_written_keeps_the_earlier_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    await journal.save({"number": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(JournalWriteError):
            await journal.save({"number": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert journal.load() == {"number": 1}
    assert not journal.leftover.exists()


async def test_statuses_come_in_order_and_progress_gives_way_to_what_is_newer() -> None:
    queue = StatusQueue()
    queue.put(STATUS)
    queue.put(replace(STATUS, progress=50))
    queue.put(replace(STATUS, state=State.STARTING, event=Event.STARTED))
    queue.put(replace(STATUS, state=State.STARTING, progress=60))
    queue.put(replace(STATUS, state=State.RUNNING))
    sent = [await queue.next() for _ in range(4)]
    assert [(number, status.state, status.progress) for number, status in sent] == [
        (2, State.DOWNLOADING, 50),
        (3, State.STARTING, 0),
        (4, State.STARTING, 60),
        (5, State.RUNNING, 0),
    ]


async def test_statuses_are_sent_again_after_a_new_session_until_they_are_acknowledged() -> None:
    queue = StatusQueue()
    queue.put(replace(STATUS, event=Event.STARTED))
    queue.put(replace(STATUS, event=Event.DIED))
    first, _ = await queue.next()
    await queue.next()
    queue.acknowledge(first)
    queue.rewind()
    number, status = await queue.next()
    assert (number, status.event) == (2, Event.DIED)
    queue.acknowledge(number)
    assert len(queue) == 0


async def test_a_status_wakes_whoever_waits_for_it() -> None:
    queue = StatusQueue()
    waiting = asyncio.create_task(queue.next())
    await asyncio.sleep(0)
    queue.put(STATUS)
    assert (await waiting)[0] == 1


def test_a_full_queue_drops_the_oldest_progress_before_any_event() -> None:
    queue = StatusQueue(capacity=3)
    for name in ("a", "b"):
        queue.put(replace(STATUS, key=WorkloadKey(WorkloadId(name), 0), event=Event.DIED))
    for name in ("c", "d"):
        queue.put(replace(STATUS, key=WorkloadKey(WorkloadId(name), 0)))
    queue.put(replace(STATUS, key=WorkloadKey(WorkloadId("e"), 0), event=Event.OOM))
    assert len(queue) == 3
    assert [status.key.workload_id for status in queue.waiting()] == ["a", "b", "e"]


def test_settings_have_defaults_and_name_the_variable_that_is_wrong(tmp_path: Path) -> None:
    settings = read_settings({"AIOPS_HOME": str(tmp_path)})
    assert (settings.home, settings.address, settings.keep_workloads) == (tmp_path / "node", "", True)
    assert not read_settings({"AIOPS_NODE_KEEP_WORKLOADS": "0"}).keep_workloads
    with pytest.raises(ValueError, match="AIOPS_NODE_CACHE_MB"):
        read_settings({"AIOPS_NODE_CACHE_MB": "much"})


def test_a_port_is_free_until_somebody_listens_and_the_holder_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        with pytest.raises(PortInUseError, match=rf"port {port} is in use by .*pid {os.getpid()}"):
            claim_port("127.0.0.1", port, ())
    assert claim_port("127.0.0.1", port, ()) == port
    with pytest.raises(PortInUseError, match="another workload"):
        claim_port("127.0.0.1", port, {port})


def test_a_chosen_port_is_the_earlier_one_where_it_can_be_had() -> None:
    first = claim_port("127.0.0.1", 0, ())
    assert claim_port("127.0.0.1", 0, (), preferred=first) == first
    assert claim_port("127.0.0.1", 0, {first}, preferred=first) != first


def test_engines_listen_on_the_node_address_where_it_is_this_machine_s_own() -> None:
    assert bind_host("127.0.0.1") == "127.0.0.1"
    assert bind_host("192.0.2.1") == "0.0.0.0"  # noqa: S104 - what is expected, not what is done
