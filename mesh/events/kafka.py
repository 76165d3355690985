"""Kafka clients as the mesh uses them: topics made when missing, producers idempotent where the broker allows it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.partitioner import DefaultPartitioner

from mesh.patience import within

log = logging.getLogger(__name__)

PARTITIONS = 4
MOST_REPLICAS = 3
REQUEST_TIMEOUT_MS = 5_000
# A broker that cannot be reached is given up on within this time, whatever the client's own retries.
CALL_TIMEOUT_S = 15
CLOSE_TIMEOUT_S = 2
BATCH_BYTES = 256 * 1024
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_INTERVAL_MS = 2_000

__all__ = ["BrokerError", "ConsumerRecord", "Kafka", "Record", "TopicPartition"]


class BrokerError(Exception):
    """The broker is away, or refuses. Trying again later helps."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is written to a topic."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int | None = None


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Ends a producer soon: what the broker has not taken by now is dropped, and never sent later."""
    with suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await producer.stop()
            return
    # An idempotent producer tries for ever, also while it stops.
    await producer._sender.close()
    await producer.client.close()


class Kafka:
    """A Kafka cluster. Holds no connection itself."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._partitioner = DefaultPartitioner()
        # The client reports every attempt to reach a dead broker, dozens a second; our callers say it once.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

    async def open_producer(self) -> AIOKafkaProducer:
        """A started producer that writes to every replica. Raises BrokerError."""
        try:
            return await self._start_producer(idempotent=True)
        except KafkaError as error:
            if error.retriable:
                raise BrokerError(f"the broker is away: {error}") from error
            log.info("the broker refuses idempotent producers (%s); going on without", type(error).__name__)
        try:
            return await self._start_producer(idempotent=False)
        except KafkaError as error:
            raise BrokerError(f"the broker is away: {error}") from error

    @asynccontextmanager
    async def consumer(self, group: str, topics: Sequence[str] = ()) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer that commits by hand and starts a new group at the oldest record. Raises BrokerError.

        Without topics it belongs to the group only by name: the caller assigns partitions.
        """
        consumer = AIOKafkaConsumer(
            *topics,
            bootstrap_servers=self.bootstrap_servers,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
            metadata_max_age_ms=30_000,
        )
        try:
            await consumer.start()
            yield consumer
        except KafkaError as error:
            raise BrokerError(f"the broker failed a consumer: {error}") from error
        finally:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await consumer.stop()

    async def list_topics(self) -> set[str]:
        """The names of all topics. Raises BrokerError."""
        admin = await self._open_admin()
        try:
            return set(await admin.list_topics())
        except KafkaError as error:
            raise BrokerError(f"the broker does not list its topics: {error}") from error
        finally:
            await admin.close()

    async def ensure_topics(self, names: Iterable[str]) -> None:
        """Makes the topics that are missing. Raises BrokerError."""
        admin = await self._open_admin()
        try:
            async with within(CALL_TIMEOUT_S, "the broker did not answer"):
                missing = sorted(set(names) - set(await admin.list_topics()))
                if missing:
                    await self._create(admin, missing)
        except (KafkaError, TimeoutError) as error:
            raise BrokerError(f"topics could not be made: {error}") from error
        finally:
            await admin.close()

    def partition_of(self, key: bytes, partitions: Iterable[int]) -> int:
        """The partition of a key, the same that every Kafka client chooses."""
        every = sorted(partitions)
        return int(self._partitioner(key, every, every))

    async def _create(self, admin: AIOKafkaAdminClient, names: Sequence[str]) -> None:
        brokers = (await admin.describe_cluster())["brokers"]
        replicas = max(1, min(MOST_REPLICAS, len(brokers)))
        response = await admin.create_topics([NewTopic(name, PARTITIONS, replicas) for name in names])
        for name, code, *_ in response.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise BrokerError(f"topic {name} could not be made: {error.__name__}")
            log.info("topic %s made", name)

    async def _start_producer(self, *, idempotent: bool) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap_servers,
            acks="all",
            enable_idempotence=idempotent,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await producer.start()
        except BaseException:
            await close_producer(producer)
            raise
        return producer

    async def _open_admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS)
        try:
            await admin.start()
        except KafkaError as error:
            await admin.close()
            raise BrokerError(f"the broker is away: {error}") from error
        return admin
