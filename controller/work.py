"""The unit of work: one transaction with every room's store on it, and the events that its commit tells."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncConnection

from controller.autoscaling.store import SqlLoadStore
from controller.batches.file_store import SqlFileStore
from controller.batches.store import SqlBatchStore
from controller.conversations.message_store import SqlEntryStore, SqlMessageStore
from controller.conversations.store import SqlConversationStore, SqlRoomStore
from controller.credentials.store import SqlCredentialStore
from controller.deployments.fleet import FleetView
from controller.deployments.store import SqlDeploymentStore
from controller.deployments.traffic_store import SqlTrafficStore
from controller.distribution.store import SqlPeerStore
from controller.events import Encodings, envelopes
from controller.flags.store import SqlFlagStore
from controller.iam.session_store import SqlLoginFailureStore, SqlSessionStore, SqlTokenTrustStore
from controller.iam.store import SqlApiKeyStore, SqlOrganizationStore, SqlUserStore
from controller.models.blob_store import SqlBlobStore
from controller.models.chunk_store import SqlChunkStore
from controller.models.download_store import SqlDownloadStore
from controller.models.revision_store import SqlRevisionStore
from controller.models.store import SqlModelStore
from controller.nodes.standing_store import SqlStandingStore
from controller.nodes.store import SqlJoinTokenStore, SqlNodeStore
from controller.placement.store import SqlPeakStore
from controller.quotas.store import SqlQuotaStore
from controller.replica_sets.store import SqlReplicaSetStore
from controller.rollouts.evidence_store import SqlEvidenceStore
from controller.rollouts.store import SqlRolloutStore
from controller.routing.rules_store import SqlRulesStore
from controller.routing.store import SqlRouteStore
from controller.system.store import SqlSystemStore
from controller.usage.engine_store import SqlEngineStore
from controller.usage.store import SqlLedger
from mesh.clock import Clock
from mesh.events import outbox
from mesh.failpoints import failpoint
from mesh.identity import Caller
from mesh.loops import Wake
from mesh.sql.database import Database
from mesh.sql.idempotency import RequestIds
from mesh.telemetry import current_traceparent


class Work:
    """One transaction, or one connection that reads. Stores are made when they are first asked for."""

    def __init__(
        self, connection: AsyncConnection, fleet: FleetView, encodings: Encodings, clock: Clock, relay: Wake
    ) -> None:
        self.fleet = fleet
        self._connection = connection
        self._encodings = encodings
        self._clock = clock
        self._relay = relay

    @cached_property
    def requests(self) -> RequestIds:
        return RequestIds(self._connection)

    @cached_property
    def users(self) -> SqlUserStore:
        return SqlUserStore(self._connection)

    @cached_property
    def organizations(self) -> SqlOrganizationStore:
        return SqlOrganizationStore(self._connection)

    @cached_property
    def sessions(self) -> SqlSessionStore:
        return SqlSessionStore(self._connection)

    @cached_property
    def api_keys(self) -> SqlApiKeyStore:
        return SqlApiKeyStore(self._connection)

    @cached_property
    def token_trust(self) -> SqlTokenTrustStore:
        return SqlTokenTrustStore(self._connection)

    @cached_property
    def login_failures(self) -> SqlLoginFailureStore:
        return SqlLoginFailureStore(self._connection)

    @cached_property
    def nodes(self) -> SqlNodeStore:
        return SqlNodeStore(self._connection)

    @cached_property
    def standings(self) -> SqlStandingStore:
        return SqlStandingStore(self._connection)

    @cached_property
    def join_tokens(self) -> SqlJoinTokenStore:
        return SqlJoinTokenStore(self._connection)

    @cached_property
    def models(self) -> SqlModelStore:
        return SqlModelStore(self._connection)

    @cached_property
    def revisions(self) -> SqlRevisionStore:
        return SqlRevisionStore(self._connection)

    @cached_property
    def blobs(self) -> SqlBlobStore:
        return SqlBlobStore(self._connection)

    @cached_property
    def downloads(self) -> SqlDownloadStore:
        return SqlDownloadStore(self._connection)

    @cached_property
    def chunks(self) -> SqlChunkStore:
        return SqlChunkStore(self._connection)

    @cached_property
    def peers(self) -> SqlPeerStore:
        return SqlPeerStore(self._connection)

    @cached_property
    def deployments(self) -> SqlDeploymentStore:
        return SqlDeploymentStore(self._connection)

    @cached_property
    def traffic(self) -> SqlTrafficStore:
        return SqlTrafficStore(self._connection)

    @cached_property
    def replica_sets(self) -> SqlReplicaSetStore:
        return SqlReplicaSetStore(self._connection)

    @cached_property
    def loads(self) -> SqlLoadStore:
        return SqlLoadStore(self._connection)

    @cached_property
    def routes(self) -> SqlRouteStore:
        return SqlRouteStore(self._connection)

    @cached_property
    def flags(self) -> SqlFlagStore:
        return SqlFlagStore(self._connection)

    @cached_property
    def rollouts(self) -> SqlRolloutStore:
        return SqlRolloutStore(self._connection)

    @cached_property
    def evidence(self) -> SqlEvidenceStore:
        return SqlEvidenceStore(self._connection)

    @cached_property
    def quotas(self) -> SqlQuotaStore:
        return SqlQuotaStore(self._connection)

    @cached_property
    def credentials(self) -> SqlCredentialStore:
        return SqlCredentialStore(self._connection)

    @cached_property
    def routing_rules(self) -> SqlRulesStore:
        return SqlRulesStore(self._connection)

    @cached_property
    def peaks(self) -> SqlPeakStore:
        return SqlPeakStore(self._connection)

    @cached_property
    def ledger(self) -> SqlLedger:
        return SqlLedger(self._connection)

    @cached_property
    def engine_counters(self) -> SqlEngineStore:
        return SqlEngineStore(self._connection)

    @cached_property
    def batches(self) -> SqlBatchStore:
        return SqlBatchStore(self._connection)

    @cached_property
    def batch_files(self) -> SqlFileStore:
        return SqlFileStore(self._connection)

    @cached_property
    def rooms(self) -> SqlRoomStore:
        return SqlRoomStore(self._connection)

    @cached_property
    def conversations(self) -> SqlConversationStore:
        return SqlConversationStore(self._connection)

    @cached_property
    def messages(self) -> SqlMessageStore:
        return SqlMessageStore(self._connection)

    @cached_property
    def entries(self) -> SqlEntryStore:
        return SqlEntryStore(self._connection)

    @cached_property
    def system(self) -> SqlSystemStore:
        return SqlSystemStore(self._connection)

    async def commit(self, *events: object) -> None:
        """Makes the changes and their events permanent, together, and wakes the relay."""
        rows = envelopes(self._encodings, events, self._clock.now(), current_traceparent())
        await outbox.append(self._connection, *rows)
        await failpoint("commit.before")
        await self._connection.commit()
        await failpoint("commit.done")
        if rows:
            self._relay.set()


class UnitOfWork:
    """Opens units of work for a caller, whose organisation bounds what they see."""

    def __init__(self, database: Database, encodings: Encodings, clock: Clock, relay: Wake) -> None:
        self._database = database
        self._encodings = encodings
        self._clock = clock
        self._relay = relay
        # What plans look at, shared by all of them.
        self.fleet = FleetView(self)

    @asynccontextmanager
    async def __call__(self, caller: Caller) -> AsyncIterator[Work]:
        """A transaction; what is not committed is rolled back."""
        async with self._database.writing(caller) as connection:
            yield Work(connection, self.fleet, self._encodings, self._clock, self._relay)

    @asynccontextmanager
    async def reading(self, caller: Caller) -> AsyncIterator[Work]:
        """A connection for statements that only read."""
        async with self._database.reading(caller) as connection:
            yield Work(connection, self.fleet, self._encodings, self._clock, self._relay)
