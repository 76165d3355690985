"""`aiops events …`: what happened on the platform, read from Kafka."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import settings_of
from cli.exits import CliError, Exit
from cli.output import Format, Output, show_result
from cli.settings import Settings

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, ConsumerRecord

app = typer.Typer(no_args_is_help=True, help="What happened on the platform.")

DEFAULT_BROKER = "127.0.0.1:9092"
EVENT_TOPICS = r"^aiops\.[a-z]+\.v1$"
POLL_MS = 200
NEW_TOPICS_MS = 2_000


@app.command()
def tail(
    context: typer.Context,
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic; may be repeated. All events else.")] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start with the oldest event.")] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many events; 0 for never.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0 for never.")] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Show events as they happen; `-o json` gives one JSON object a line."""
    asyncio.run(_tail(bootstrap_servers(settings_of(context)), topic or [], from_beginning, count, seconds, output))


@app.command()
def replay(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic whose dead letters go back to it.")],
    event: Annotated[str, typer.Option(help="Only the event with this id, even if it went back before.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 for all.")] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Send the dead letters of a topic back for another try."""
    from mesh.events.kafka import BrokerError, Kafka
    from mesh.events.replay import DeadLetterNotFoundError
    from mesh.events.replay import replay as send_back

    servers = bootstrap_servers(settings_of(context))
    try:
        count = asyncio.run(send_back(Kafka(servers), topic, limit=limit or None, event_id=event))
    except DeadLetterNotFoundError as error:
        raise CliError(error.message, Exit.NOT_FOUND) from error
    except BrokerError as error:
        raise _unreachable(servers, error) from error
    show_result({"topic": topic, "replayed": count}, f"{count} dead letters went back to {topic}", output)


def bootstrap_servers(settings: Settings) -> str:
    """$AIOPS_KAFKA, or the broker of the platform in $AIOPS_HOME, or the usual port."""
    from stack.home import Home, read_state

    if settings.kafka:
        return settings.kafka
    state = read_state(Home(settings.home))
    addresses = [report.address for report in state.services if report.name == "broker"] if state else []
    return addresses[0] if addresses else DEFAULT_BROKER


async def _tail(
    servers: str, topics: list[str], from_beginning: bool, count: int, seconds: float, output: Format
) -> None:
    from aiokafka.errors import KafkaError

    try:
        async with _consumer(servers, topics, from_beginning) as consumer:
            shown = 0
            async for record in _records(consumer, seconds):
                typer.echo(_as_json(record) if output is Format.JSON else _as_line(record))
                shown += 1
                if shown == count:
                    return
    except KafkaError as error:
        raise _unreachable(servers, error) from error


def _consumer(servers: str, topics: list[str], from_beginning: bool) -> "AIOKafkaConsumer":
    """A consumer without a group, which commits nothing and takes nothing from anybody."""
    from aiokafka import AIOKafkaConsumer

    # The client reports every attempt to reach a dead broker; the command says it once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=servers,
        auto_offset_reset="earliest" if from_beginning else "latest",
        metadata_max_age_ms=NEW_TOPICS_MS,
    )
    if not topics:
        consumer.subscribe(pattern=EVENT_TOPICS)
    return consumer


async def _records(consumer: "AIOKafkaConsumer", seconds: float) -> "AsyncIterator[ConsumerRecord]":
    """Records as they come, until the time is over; 0 means no end."""
    deadline = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < deadline:
        batches = await consumer.getmany(timeout_ms=POLL_MS)
        records = [record for batch in batches.values() for record in batch]
        for record in sorted(records, key=lambda record: record.timestamp):
            yield record


def _as_json(record: "ConsumerRecord") -> str:
    headers = {name: raw.decode(errors="replace") for name, raw in record.headers}
    key = (record.key or b"").decode(errors="replace")
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    return json.dumps({**place, "key": key, "headers": headers, "value": _value(record)}, ensure_ascii=False)


def _as_line(record: "ConsumerRecord") -> str:
    headers = {name: raw.decode(errors="replace") for name, raw in record.headers}
    moment = time.strftime("%H:%M:%S", time.localtime(record.timestamp / 1000))
    key = (record.key or b"").decode(errors="replace")
    value = json.dumps(_value(record), ensure_ascii=False)
    return f"{moment} {record.topic} {headers.get('ce_type', '?')} {key} {value}"


def _value(record: "ConsumerRecord") -> object:
    text = (record.value or b"").decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unreachable(servers: str, error: Exception) -> CliError:
    step = "start the platform with `aiops up`, or set AIOPS_KAFKA to the brokers"
    return CliError(f"no broker answers at {servers}", Exit.NOT_REACHABLE, (str(error),), step)
