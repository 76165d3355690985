"""Makes the controller: the only place that constructs and wires its parts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from alembic import command
from alembic.config import Config

from controller.autoscaling.reconcile import Autoscaler
from controller.autoscaling.rpc import LoadServicer
from controller.autoscaling.service import Loads
from controller.batches.asking import Gateway, Tokens
from controller.batches.files import Files
from controller.batches.rpc import BatchServicer, FileServicer
from controller.batches.service import Batches
from controller.batches.working import POLL as BATCH_POLL
from controller.batches.working import BatchWorker
from controller.batches.working import Rules as BatchRules
from controller.conversations.chat import Chat
from controller.conversations.feed import Feed
from controller.conversations.messages import Messages
from controller.conversations.rpc import (
    ConversationFeedServicer,
    ConversationServicer,
    RoomServicer,
    TurnServicer,
)
from controller.conversations.service import Conversations, Rooms
from controller.conversations.turns import Turns
from controller.credentials.rpc import CredentialServicer, ProviderSecretServicer
from controller.credentials.service import Credentials
from controller.deployments.adapters import Adapters
from controller.deployments.drain import Drainer
from controller.deployments.failover import LOOK_EVERY, Failover
from controller.deployments.fleet import KEEP_UP
from controller.deployments.logs import Logs
from controller.deployments.rpc import DeploymentServicer
from controller.deployments.service import Deployments
from controller.deployments.workloads import Workloads
from controller.distribution.service import Distribution
from controller.encodings import EVENTS
from controller.flags.rpc import FlagServicer
from controller.flags.service import Flags
from controller.hints import Hints
from controller.iam.api_keys import ApiKeys
from controller.iam.first_admin import ensure_first_admin
from controller.iam.passwords import Passwords
from controller.iam.rpc import AuthServicer, TokenTrustServicer, UserServicer
from controller.iam.service import Users
from controller.iam.sessions import Sessions
from controller.iam.signing import Signers, ensure_seal
from controller.iam.trust import HOUSEKEEPING, POLL, SigningKeys, TokenTrustFeed
from controller.models.downloading import POLL as DOWNLOAD_POLL
from controller.models.downloading import DownloadWorker, Rules
from controller.models.downloads import Downloads
from controller.models.hub import Hub
from controller.models.objects import ObstoreObjects
from controller.models.reconcile import INTERVAL as SWEEP_INTERVAL
from controller.models.reconcile import Sweep
from controller.models.rpc import ModelServicer
from controller.models.service import Models
from controller.nodes.enrolment import Endpoints, Enrolment
from controller.nodes.liveness import Liveness, LivenessRules
from controller.nodes.reconcile import LONGEST_PAUSE, LeaseReaper
from controller.nodes.rpc import NodeEnrollmentServicer, NodeServicer
from controller.nodes.service import Nodes
from controller.notifications.consume import notification_consumer
from controller.notifications.service import Notifications
from controller.quotas.rpc import QuotaServicer, SpentQuotaServicer
from controller.quotas.service import Quotas
from controller.quotas.spent import SpentFeed
from controller.replica_sets.reconcile import Reconciler
from controller.replica_sets.rpc import ReplicaSetServicer
from controller.replica_sets.service import ReplicaSets
from controller.rollouts.reconcile import RolloutReconciler
from controller.rollouts.rpc import RolloutServicer
from controller.rollouts.service import Rollouts
from controller.routing.alerts import Alerts
from controller.routing.feed import RoutingFeed
from controller.routing.rpc import ReplicaServicer, RouteServicer, RoutingAlertServicer, RoutingRulesServicer
from controller.routing.rules_service import RoutingRules
from controller.routing.service import Routes
from controller.routing.whereabouts import WhereaboutsView
from controller.sessions.admission import Admission
from controller.sessions.holders import SessionHolders
from controller.sessions.registry import SessionRegistry
from controller.sessions.rpc import NodeLogServicer, NodeSessionServicer
from controller.sessions.service import Sessions as NodeSessions
from controller.settings import Settings
from controller.system.rpc import SystemServicer
from controller.system.service import System
from controller.usage.convert import TOPIC as USAGE
from controller.usage.convert import used_from_event
from controller.usage.rpc import UsageServicer
from controller.usage.service import UsageLedger
from controller.work import UnitOfWork
from mesh.clock import Clock, SystemClock
from mesh.events.batches import BatchConsumer
from mesh.events.kafka import Kafka
from mesh.events.publisher import KafkaPublisher
from mesh.events.relay import Relay
from mesh.failpoints import arm
from mesh.loops import Backoff, Wake, run_loop
from mesh.names import JOIN_NAME, SESSION_NAME
from mesh.pki import ensure_authority, issue_service
from mesh.rpc.authenticator import PeerAuthenticator, TokenAuthenticator
from mesh.rpc.channel import ClientTls
from mesh.rpc.server import Listener, ServerTls, serve
from mesh.sql.database import Database
from mesh.sql.notices import Notices
from mesh.telemetry import Telemetry, start_telemetry
from mesh.tokens import TokenVerifier

# After its connection failed, the hints' loop makes another one so soon.
NOTICES_AGAIN = timedelta(seconds=1)
Loop = Callable[[], Awaitable[None]]
PARALLEL_DOWNLOADS = 2
PARALLEL_BATCHES = 2
LEDGER_HOUSEKEEPING = timedelta(hours=1)
LOADS_HOUSEKEEPING = timedelta(minutes=1)
PEAKS_KEPT = timedelta(minutes=1)
MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


@dataclass(slots=True)
class Kernel:
    """What every room is built on, and what the rooms add: servicers to serve and loops to run."""

    settings: Settings
    clock: Clock
    telemetry: Telemetry
    database: Database
    relay_wake: Wake
    hints: Hints
    unit_of_work: UnitOfWork
    verifier: TokenVerifier
    servicers: list[object] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)

    def repeat(
        self, name: str, step: Callable[[], Awaitable[timedelta | None]], interval: timedelta, wake: Wake | None = None
    ) -> None:
        """Adds a step that is repeated while the controller runs."""
        self.loops.append(lambda: run_loop(name, step, interval=interval, wake=wake))


async def run(settings: Settings, stopping: asyncio.Event) -> None:
    """Runs until `stopping` is set, then drains."""
    arm(settings.failpoints)
    await asyncio.to_thread(_migrate, settings.database_url)
    async with AsyncExitStack() as stack:
        kernel = await stack.enter_async_context(_kernel(settings))
        signers = await _identity(kernel, stack)
        _registry(kernel)
        _fleet(kernel)
        _platform(kernel)
        _batches(kernel, signers, stack)
        _conversations(kernel)
        _events(kernel)
        authenticator = TokenAuthenticator(kernel.verifier, PeerAuthenticator(kernel.clock))
        async with (
            serve(_listeners(settings), kernel.servicers, authenticator, kernel.telemetry.rpc),
            _running(kernel.loops),
        ):
            await stopping.wait()


def _migrate(database_url: str) -> None:
    config = Config(attributes={"url": database_url})
    config.set_main_option("script_location", str(MIGRATIONS))
    command.upgrade(config, "head")


@asynccontextmanager
async def _kernel(settings: Settings) -> AsyncIterator[Kernel]:
    clock, relay_wake = SystemClock(), Wake()
    telemetry = start_telemetry("controller", settings.observability)
    database = Database(settings.database_url, pool_size=settings.database_pool)
    telemetry.watch_engine(database.engine)
    unit_of_work = UnitOfWork(database, EVENTS, clock, relay_wake)
    try:
        yield Kernel(settings, clock, telemetry, database, relay_wake, Hints(), unit_of_work, TokenVerifier(clock))
    finally:
        await database.dispose()
        telemetry.shutdown()


async def _identity(kernel: Kernel, stack: AsyncExitStack) -> Signers:
    passwords, revoked, seal = Passwords(), Wake(), ensure_seal(kernel.settings.pki)
    stack.callback(passwords.close)
    signers = Signers(seal)
    keys = SigningKeys(kernel.unit_of_work, seal, kernel.clock, age_limit=kernel.settings.signing_key_age)
    trust = TokenTrustFeed(kernel.unit_of_work, kernel.verifier, signers, kernel.clock)
    await keys.ensure()
    await trust.load()
    await ensure_first_admin(
        kernel.unit_of_work, passwords, kernel.clock, kernel.settings.home, kernel.settings.admin_password
    )
    sessions = Sessions(kernel.unit_of_work, passwords, signers, kernel.clock, revoked)
    users = Users(kernel.unit_of_work, passwords, kernel.clock, revoked)
    api_keys = ApiKeys(kernel.unit_of_work, signers, kernel.clock, revoked)
    kernel.servicers += [
        AuthServicer(sessions, trust),
        UserServicer(users, sessions, api_keys),
        TokenTrustServicer(trust),
    ]
    # A controller whose database comes back must not wait long before it refuses what was revoked meanwhile.
    patience = Backoff(limit=POLL)
    kernel.loops.append(lambda: run_loop("token trust", trust.load, interval=POLL, wake=revoked, backoff=patience))
    kernel.repeat("identity housekeeping", keys.keep_house, HOUSEKEEPING)
    return signers


def _registry(kernel: Kernel) -> None:
    settings, unit_of_work, clock = kernel.settings, kernel.unit_of_work, kernel.clock
    objects, deleted, due, seal = ObstoreObjects(settings.storage_url), Wake(), Wake(), ensure_seal(settings.pki)
    models = Models(unit_of_work, objects, clock, deleted)
    kernel.servicers.append(ModelServicer(models, Downloads(unit_of_work, seal, due)))
    kernel.repeat("objects of models", Sweep(unit_of_work, objects, clock).step, SWEEP_INTERVAL, wake=deleted)
    hub, staging = Hub(settings.hub_url, settings.hub_token), settings.home / "downloads"
    for number in range(PARALLEL_DOWNLOADS):
        worker = DownloadWorker(unit_of_work, models, hub, seal, clock, staging, Rules())
        kernel.repeat(f"downloads {number}", worker.step, DOWNLOAD_POLL, wake=due)


def _fleet(kernel: Kernel) -> None:
    unit_of_work, hints, settings = kernel.unit_of_work, kernel.hints, kernel.settings
    workloads, registry, admission = Workloads(unit_of_work, hints), SessionRegistry(), Admission(kernel.clock)
    liveness = Liveness(unit_of_work, hints, _rules(settings), settings.peer_address)
    holders = SessionHolders(unit_of_work, registry, settings.peer_address, lambda: _peer_tls(settings))
    failover = Failover(unit_of_work, hints, kernel.clock)
    reconciler = Reconciler(unit_of_work, hints, kernel.clock)
    storage = ObstoreObjects(settings.storage_url)
    distribution = Distribution(unit_of_work, workloads, storage, settings.signed_lifetime)
    credentials = Credentials(unit_of_work, ensure_seal(settings.pki), hints)
    enrolment = Enrolment(unit_of_work, ensure_authority(settings.pki), _endpoints(settings))
    kernel.servicers += [
        NodeServicer(Nodes(unit_of_work, enrolment, workloads, hints)),
        NodeEnrollmentServicer(enrolment),
        NodeSessionServicer(
            NodeSessions(liveness, workloads, distribution, admission), registry, enrolment, hints, kernel.clock
        ),
        DeploymentServicer(
            Deployments(unit_of_work, hints), Adapters(unit_of_work, hints), Logs(unit_of_work, holders)
        ),
        NodeLogServicer(registry),
        ReplicaServicer(RoutingFeed(WhereaboutsView(unit_of_work), hints)),
        ReplicaSetServicer(ReplicaSets(unit_of_work, hints)),
        RouteServicer(Routes(unit_of_work, hints, private_providers=settings.private_providers)),
        RolloutServicer(Rollouts(unit_of_work, hints)),
        FlagServicer(Flags(unit_of_work)),
        RoutingRulesServicer(RoutingRules(unit_of_work)),
        RoutingAlertServicer(Alerts(unit_of_work)),
        QuotaServicer(Quotas(unit_of_work, hints)),
        SpentQuotaServicer(SpentFeed(unit_of_work, hints)),
        CredentialServicer(credentials),
        ProviderSecretServicer(credentials),
    ]
    kernel.repeat("the view of the fleet", unit_of_work.fleet.keep_up, KEEP_UP)
    kernel.repeat("measured peaks", workloads.peaks.keep, PEAKS_KEPT)
    kernel.repeat("node leases", LeaseReaper(liveness, kernel.clock, hints, admission.crowded).step, LONGEST_PAUSE)
    drainer = Drainer(unit_of_work, hints, kernel.clock)
    kernel.loops += [lambda: _watch("failover", failover), lambda: _watch("replica sets", reconciler)]
    rollouts = RolloutReconciler(unit_of_work, hints)
    kernel.loops += [lambda: _watch("drain", drainer), lambda: _watch("rollouts", rollouts)]
    _scaling(kernel)
    notices = Notices(kernel.database, "aiops_hints", hints.hear)
    hints.tell_others = notices.say
    kernel.repeat("hints between controllers", notices.step, NOTICES_AGAIN)


def _scaling(kernel: Kernel) -> None:
    loads = Loads(kernel.unit_of_work, kernel.hints)
    autoscaler = Autoscaler(kernel.unit_of_work, kernel.hints)
    kernel.servicers.append(LoadServicer(loads))
    kernel.loops.append(lambda: _watch("autoscaling", autoscaler))
    kernel.repeat("loads of gateways that are gone", loads.keep_house, LOADS_HOUSEKEEPING)


def _rules(settings: Settings) -> LivenessRules:
    return LivenessRules(
        lease=settings.lease,
        heartbeat=settings.heartbeat,
        mass_least=settings.mass_least,
        mass_percent=settings.mass_percent,
    )


def _peer_tls(settings: Settings) -> ClientTls:
    """What this controller shows to another one: the certificate that it serves with."""
    certificate, key = issue_service(settings.pki, "controller", _hosts(settings))
    return ClientTls(settings.pki / "ca.crt", certificate, key)


async def _watch(name: str, watcher: Failover | Reconciler | Drainer | RolloutReconciler | Autoscaler) -> None:
    with watcher.watching():
        await run_loop(name, watcher.step, interval=LOOK_EVERY)


def _platform(kernel: Kernel) -> None:
    kernel.servicers.append(SystemServicer(System(kernel.unit_of_work, kernel.clock), version("aiops")))


def _batches(kernel: Kernel, signers: Signers, stack: AsyncExitStack) -> None:
    settings, unit_of_work, clock, due = kernel.settings, kernel.unit_of_work, kernel.clock, Wake()
    objects, gateway = ObstoreObjects(settings.storage_url), Gateway(settings.url)
    stack.push_async_callback(gateway.close)
    files, tokens = Files(unit_of_work, objects, clock, settings.batch_file_bytes), Tokens(unit_of_work, signers, clock)
    kernel.servicers += [FileServicer(files), BatchServicer(Batches(unit_of_work, due))]
    kernel.repeat("files of batches", files.keep_house, HOUSEKEEPING)
    for number in range(PARALLEL_BATCHES):
        rules = BatchRules(most_open=settings.batch_concurrency)
        worker = BatchWorker(unit_of_work, objects, gateway, tokens, clock, rules)
        kernel.repeat(f"batches {number}", worker.step, BATCH_POLL, wake=due)


def _conversations(kernel: Kernel) -> None:
    unit_of_work, clock = kernel.unit_of_work, kernel.clock
    feed = Feed(unit_of_work)
    conversations, messages = Conversations(unit_of_work, clock, feed), Messages(unit_of_work, clock, feed)
    kernel.servicers += [
        RoomServicer(Rooms(unit_of_work, clock)),
        ConversationServicer(conversations, messages, Chat(conversations, messages, feed, clock)),
        ConversationFeedServicer(feed),
        TurnServicer(Turns(messages, feed, clock)),
    ]
    notices = Notices(kernel.database, "aiops_conversations", feed.hear)
    feed.tell_others = notices.say
    kernel.repeat("conversations between controllers", notices.step, NOTICES_AGAIN)


def _endpoints(settings: Settings) -> Endpoints:
    outside = settings.public_node_address
    return Endpoints(
        join_url=settings.public_join_url or f"https://{outside or settings.join_address}",
        session_address=settings.public_mesh_address or outside or settings.mesh_address,
        tunnel_address=outside,
    )


def _events(kernel: Kernel) -> None:
    kafka = Kafka(kernel.settings.kafka)
    relay = Relay(kernel.database, KafkaPublisher(kafka), kernel.telemetry, wake=kernel.relay_wake, clock=kernel.clock)
    consumer = notification_consumer(
        Notifications(),
        database=kernel.database,
        kafka=kafka,
        telemetry=kernel.telemetry,
        clock=kernel.clock,
        relay=kernel.relay_wake,
    )
    ledger = UsageLedger(kernel.unit_of_work, kernel.clock, kernel.settings.usage_kept, kernel.hints)
    told = BatchConsumer("ledger", USAGE, used_from_event, ledger.enter, kafka=kafka, telemetry=kernel.telemetry)
    kernel.servicers.append(UsageServicer(ledger))
    kernel.repeat("the ledger's housekeeping", ledger.keep_house, LEDGER_HOUSEKEEPING)
    kernel.loops += [relay.run, consumer.run, told.run]


def _listeners(settings: Settings) -> list[Listener]:
    ensure_authority(settings.pki)
    certificate, key = issue_service(settings.pki, "controller", _hosts(settings))
    return [
        Listener(settings.api_address),
        Listener(settings.mesh_address, ServerTls(certificate, key, authority=settings.pki / "ca.crt")),
        Listener(settings.join_address, ServerTls(certificate, key)),
    ]


def _hosts(settings: Settings) -> list[str]:
    """What the certificate of every controller of this authority is called by."""
    addresses = [settings.mesh_address, settings.join_address, *settings.public_mesh_address.split(",")]
    hosts = [address.strip().rpartition(":")[0] for address in addresses if address]
    hosts += [urlsplit(settings.public_join_url).hostname or ""] if settings.public_join_url else []
    return [*hosts, SESSION_NAME, JOIN_NAME]


@asynccontextmanager
async def _running(loops: list[Loop]) -> AsyncIterator[None]:
    """Runs the loops beside the block; one that ends by an error ends the controller."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ended(loop)) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _ended(loop: Loop) -> None:
    await loop()
