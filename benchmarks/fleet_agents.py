"""Agents that speak the node session's protocol and run nothing: many of them in one process.

They are cheap, so that the machine is the controller's. What an agent says again and again is encoded once, its
readings in a few variants, so that each one differs from the one before; and of what it hears only welcomes and desired
states are decoded, an answered heartbeat is told by its first byte. What stays is what the controller must bear of any
agent: one TLS connection each with a certificate of its own, one stream, pings, and messages of the real size.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb

from mesh.loops import Backoff
from mesh.names import SESSION_NAME
from mesh.rpc.channel import ClientTls, called, open_channel

# As the node agent's own.
BACKOFF = Backoff(timedelta(milliseconds=500), timedelta(seconds=5))
GPUS = 8
WELCOME_S = 10.0
CONNECT = "/aiops.nodes.v1.NodeSessionService/Connect"
VARIANTS = 16
# Field 5 of ConnectResponse, a message.
HEARTBEAT_ACK = bytes([5 << 3 | 2])

Stream = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(slots=True)
class Deliveries:
    """When each change of a workload reached its agent, in seconds of the machine's clock."""

    seen: dict[tuple[str, int, int], float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, node_id: str, spec: pb.WorkloadSpec) -> None:
        """A workload as an agent was told of it."""
        self.seen.setdefault((spec.workload_id, spec.epoch, spec.goal), time.time())
        self.places[spec.workload_id] = node_id
        self.changed.set()

    async def of(self, workload_id: str, epoch: int, goal: "pb.WorkloadSpec.Goal.ValueType", limit_s: float) -> float:
        """When the agent heard of it; TimeoutError when it does not within so long."""
        async with asyncio.timeout(limit_s):
            while (workload_id, epoch, goal) not in self.seen:
                self.changed.clear()
                await self.changed.wait()
        return self.seen[workload_id, epoch, goal]


class SimulatedAgent:
    """One node: says hello, heartbeats, and answers every change of its desired state as done."""

    def __init__(self, node_id: str, tls: ClientTls, target: str, deliveries: Deliveries, backoff: Backoff) -> None:
        self.node_id = node_id
        self._tls, self._target, self._deliveries, self._backoff = tls, target, deliveries, backoff
        self._sequence = 0
        self._running: dict[str, pb.WorkloadStatus] = {}
        self._answered = b""
        self.sessions = 0
        self.beats = 0
        self.open = False
        self.revision = 0

    @property
    def lease_expires_at(self) -> float:
        """When the lease ends that was last granted, in seconds of the machine's clock."""
        ack = pb.ConnectResponse.FromString(self._answered).heartbeat_ack
        return ack.lease_expires_at.ToNanoseconds() / 1e9

    async def run(self, after_s: float) -> None:
        """One session after another until cancelled, the first after so long."""
        await asyncio.sleep(after_s)
        failures = 0
        while True:
            try:
                async with open_channel(self._target, self._tls, options=called(SESSION_NAME)) as channel:
                    await self._hold(channel.stream_stream(CONNECT)())
            except* (grpc.aio.AioRpcError, EOFError, asyncio.InvalidStateError, TimeoutError):
                failures = 1 if self.open else failures + 1
            self.open = False
            await asyncio.sleep(self._backoff.pause(failures).total_seconds())

    async def _hold(self, stream: Stream) -> None:
        await stream.write(_said(hello=self._hello()))
        welcome = await _welcome(stream)
        await self._apply(stream, welcome.desired_state)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(stream))
            group.create_task(self._beat(stream, welcome))

    async def _listen(self, stream: Stream) -> None:
        while True:
            raw = await _read(stream)
            if raw.startswith(HEARTBEAT_ACK):
                self.sessions += not self.open
                self.open, self._answered = True, raw
                self.beats += 1
                continue
            message = pb.ConnectResponse.FromString(raw)
            if message.HasField("desired_state"):
                await self._apply(stream, message.desired_state)

    async def _beat(self, stream: Stream, welcome: pb.Welcome) -> None:
        while True:
            own = pb.Heartbeat(session_epoch=welcome.session_epoch, applied_revision=self.revision)
            # Encoded messages that follow each other are one message: what was measured was encoded before.
            reading = random.choice(READINGS)  # noqa: S311 - which one it is is no secret
            await stream.write(_said(heartbeat=own) + reading)
            await asyncio.sleep(welcome.heartbeat_seconds)

    async def _apply(self, stream: Stream, state: pb.DesiredState) -> None:
        self.revision = state.revision
        for spec in state.workloads:
            self._deliveries.take(self.node_id, spec)
            runs = spec.goal == pb.WorkloadSpec.run
            ack = pb.CommandAck(request_id=spec.request_id, status=pb.CommandAck.accepted)
            await stream.write(_said(command_ack=ack))
            self._sequence += 1
            status = pb.WorkloadStatus(
                workload_id=spec.workload_id,
                epoch=spec.epoch,
                state=pb.WorkloadStatus.running if runs else pb.WorkloadStatus.stopped,
                container_id=f"c-{spec.workload_id}",
                port=20_000,
                health="healthy" if runs else "unknown",
                sequence=self._sequence,
                facts=pb.EngineFacts(inference_path="/v1/chat/completions"),
            )
            await stream.write(_said(workload_status=status))
            if runs:
                self._running[spec.workload_id] = status
            else:
                self._running.pop(spec.workload_id, None)

    def _hello(self) -> pb.Hello:
        inventory = pb.Inventory(gpu_devices=_devices(0), cpu_cores=64, ram_total=512_000, ram_free=400_000)
        return pb.Hello(
            node_id=self.node_id,
            boot_id="boot-1",
            agent_version="benchmark",
            inventory=inventory,
            runtimes=["process"],
            engines=["vllm", "transformers"],
            workloads=self._running.values(),
            address="127.0.0.1",
        )


async def _welcome(stream: Stream) -> pb.Welcome:
    while True:
        async with asyncio.timeout(WELCOME_S):
            message = pb.ConnectResponse.FromString(await _read(stream))
        if message.HasField("welcome"):
            return message.welcome


async def _read(stream: Stream) -> bytes:
    raw = await stream.read()
    if not isinstance(raw, bytes):
        raise EOFError
    return raw


def _said(**message: "pb.Hello | pb.Heartbeat | pb.CommandAck | pb.WorkloadStatus") -> bytes:
    return pb.ConnectRequest(**message).SerializeToString()  # type: ignore[arg-type]  # each is of its own field


def _devices(variant: int) -> Sequence[node_pb2.GpuDevice]:
    return [
        node_pb2.GpuDevice(
            device_id=str(index),
            model="NVIDIA H100",
            memory_total=81_559,
            memory_free=80_000 - variant,
            utilization=variant * 5,
            temperature=40 + variant,
            uuid=f"GPU-{index}",
        )
        for index in range(GPUS)
    ]


def _reading(variant: int) -> bytes:
    metrics = node_pb2.NodeMetrics(
        gpu_devices=_devices(variant), cpu_utilization=variant, ram_total=512_000, ram_free=400_000 - variant
    )
    return _said(heartbeat=pb.Heartbeat(metrics=metrics))


READINGS = [_reading(variant) for variant in range(VARIANTS)]
