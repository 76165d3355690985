"""`aiops events …` against a real broker."""

import asyncio
import json
from pathlib import Path

from aiokafka import AIOKafkaProducer

from stack.ports import free_port
from tests.fixtures.platform import platform_in


async def produce(servers: str, topic: str, *values: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for value in values:
            headers = [("ce_id", b"1"), ("ce_type", b"test.happened")]
            await producer.send_and_wait(topic, value.encode(), key=b"it", headers=headers)


def test_tail_shows_what_was_there(kafka: str, tmp_path: Path) -> None:
    asyncio.run(produce(kafka, "aiops.tailing.v1", '{"number": 1}', "no json"))
    platform = platform_in(tmp_path)
    tail = ("events", "tail", "--topic", "aiops.tailing.v1", "--from-beginning", "--count", "2")
    done = platform.aiops(*tail, "-o", "json", AIOPS_KAFKA=kafka)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["key"], first["value"], second["value"]) == ("it", {"number": 1}, "no json")
    assert first["headers"]["ce_type"] == "test.happened"
    assert 'test.happened it {"number": 1}' in platform.aiops(*tail, AIOPS_KAFKA=kafka).stdout


def test_tail_without_topic_takes_every_event_topic_and_no_queue(kafka: str, tmp_path: Path) -> None:
    asyncio.run(produce(kafka, "aiops.every.v1", '"wanted"'))
    asyncio.run(produce(kafka, "aiops.every.jobs.v1", '"unwanted"'))
    tail = ("events", "tail", "--from-beginning", "--seconds", "2", "-o", "json")
    done = platform_in(tmp_path).aiops(*tail, AIOPS_KAFKA=kafka)
    values = [json.loads(line)["value"] for line in done.stdout.splitlines()]
    assert "wanted" in values
    assert "unwanted" not in values


def test_no_broker_says_what_to_do(tmp_path: Path) -> None:
    done = platform_in(tmp_path).aiops("events", "tail", AIOPS_KAFKA=f"127.0.0.1:{free_port()}")
    assert done.returncode == 3
    assert "AIOPS_KAFKA" in done.stderr
    assert "Traceback" not in done.stderr


def test_replay_of_a_topic_without_dead_letters_is_not_found(kafka: str, tmp_path: Path) -> None:
    done = platform_in(tmp_path).aiops("events", "replay", "aiops.nothing.v1", AIOPS_KAFKA=kafka)
    assert done.returncode == 5
    assert "no dead letters" in done.stderr
