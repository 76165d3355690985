"""The embedded broker speaks Kafka to an ordinary client."""

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stack.broker import Broker
from stack.ports import free_port


async def test_a_produced_record_is_consumed_by_a_group(broker: Broker, kafka: str) -> None:
    assert not await broker.missing()
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait("test.broker.round-trip", b"value", key=b"key", headers=[("ce_id", b"1")])
    consumer = AIOKafkaConsumer(
        "test.broker.round-trip", bootstrap_servers=kafka, group_id="test", auto_offset_reset="earliest"
    )
    async with consumer:
        record = await consumer.getone()
    assert (record.key, record.value, record.headers) == (b"key", b"value", (("ce_id", b"1"),))


async def test_a_port_without_broker_is_not_healthy() -> None:
    port = free_port()
    assert await Broker(port).missing() == f"nothing listens on 127.0.0.1:{port}"
