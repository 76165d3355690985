"""Agents that speak the node session's protocol and run nothing: many of them in one process."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeSessionServiceStub

from mesh.loops import Backoff
from mesh.names import SESSION_NAME
from mesh.rpc.channel import ClientTls, called, open_channel

# As the node agent's own.
BACKOFF = Backoff(timedelta(milliseconds=500), timedelta(seconds=6))
GPUS = 8
WELCOME_S = 10.0


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
        self.sessions = 0
        self.beats = 0
        self.open = False
        self.lease_expires_at = 0.0
        self.revision = 0

    async def run(self, after_s: float) -> None:
        """One session after another until cancelled, the first after so long."""
        await asyncio.sleep(after_s)
        failures = 0
        while True:
            try:
                async with open_channel(self._target, self._tls, options=called(SESSION_NAME)) as channel:
                    await self._hold(NodeSessionServiceStub(channel).Connect())
            except* (grpc.aio.AioRpcError, EOFError, asyncio.InvalidStateError, TimeoutError):
                failures = 1 if self.open else failures + 1
            self.open = False
            await asyncio.sleep(self._backoff.pause(failures).total_seconds())

    async def _hold(self, stream: "Stream") -> None:
        await stream.write(pb.ConnectRequest(hello=self._hello()))
        async with asyncio.timeout(WELCOME_S):
            welcome = (await _read(stream)).welcome
        await self._apply(stream, welcome.desired_state)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(stream))
            group.create_task(self._beat(stream, welcome))

    async def _listen(self, stream: "Stream") -> None:
        while True:
            message = await _read(stream)
            match message.WhichOneof("message"):
                case "desired_state":
                    await self._apply(stream, message.desired_state)
                case "heartbeat_ack":
                    if not self.open:
                        self.sessions += 1
                    self.open = True
                    self.beats += 1
                    self.lease_expires_at = message.heartbeat_ack.lease_expires_at.ToNanoseconds() / 1e9

    async def _beat(self, stream: "Stream", welcome: pb.Welcome) -> None:
        while True:
            metrics = node_pb2.NodeMetrics(
                node_id=self.node_id, gpu_devices=_devices(), cpu_utilization=10, ram_total=512_000, ram_free=400_000
            )
            beat = pb.Heartbeat(session_epoch=welcome.session_epoch, metrics=metrics, applied_revision=self.revision)
            await stream.write(pb.ConnectRequest(heartbeat=beat))
            await asyncio.sleep(welcome.heartbeat_seconds)

    async def _apply(self, stream: "Stream", state: pb.DesiredState) -> None:
        self.revision = state.revision
        for spec in state.workloads:
            self._deliveries.take(self.node_id, spec)
            runs = spec.goal == pb.WorkloadSpec.run
            ack = pb.CommandAck(request_id=spec.request_id, status=pb.CommandAck.accepted)
            await stream.write(pb.ConnectRequest(command_ack=ack))
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
            await stream.write(pb.ConnectRequest(workload_status=status))
            if runs:
                self._running[spec.workload_id] = status
            else:
                self._running.pop(spec.workload_id, None)

    def _hello(self) -> pb.Hello:
        inventory = pb.Inventory(gpu_devices=_devices(), cpu_cores=64, ram_total=512_000, ram_free=400_000)
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


Stream = grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]


async def _read(stream: Stream) -> pb.ConnectResponse:
    message = await stream.read()
    if not isinstance(message, pb.ConnectResponse):
        raise EOFError
    return message


def _devices() -> Sequence[node_pb2.GpuDevice]:
    return [
        node_pb2.GpuDevice(
            device_id=str(index), model="NVIDIA H100", memory_total=81_559, memory_free=80_000, uuid=f"GPU-{index}"
        )
        for index in range(GPUS)
    ]
