"""The platform as it is when all is over: rows, events, processes and answers, read from where they really are."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

from stack.postgres import Postgres
from tests.robustness.cluster import Cluster

Row = dict[str, Any]


@dataclass(frozen=True)
class Final:
    """Rows as JSON objects; `outbox` are those since the scenario began, `events` the ids of all of them.

    `engines` are marks by pid; `answers` are those of every endpoint, by deployment id.
    """

    deployments: list[Row]
    models: list[Row]
    nodes: list[Row]
    outbox: list[Row]
    events: list[str]
    engines: dict[int, str]
    answers: dict[str, Row]
    waiting_locks: int
    idle_transactions: int

    def running(self) -> dict[str, Row]:
        """What should run, by id."""
        return {row["deployment_id"]: row for row in self.deployments if row["goal"] == "run"}


async def read_final(cluster: Cluster, rest: httpx.AsyncClient, since: int, began: str) -> Final:
    """Everything now, but of the outbox only what came after the row `since`, and of the deployments that have ended
    only those that changed after the moment `began`: the others were judged before."""
    rows = query(
        cluster.postgres,
        "SELECT json_build_object("
        "'deployments', (SELECT coalesce(json_agg(d ORDER BY created_at), '[]') FROM deployments d"
        " WHERE goal = 'run' OR ended_at IS NULL OR changed_at >= :'began'),"
        "'models', (SELECT coalesce(json_agg(m), '[]') FROM models m WHERE m.deleted_at IS NULL),"
        "'nodes', (SELECT coalesce(json_agg(n), '[]') FROM nodes n WHERE n.deleted_at IS NULL),"
        "'outbox', (SELECT coalesce(json_agg(o ORDER BY id), '[]') FROM outbox o WHERE id > :since),"
        "'events', (SELECT coalesce(json_agg(event_id), '[]') FROM outbox),"
        "'waiting_locks', (SELECT count(*) FROM pg_locks WHERE NOT granted),"
        "'idle_transactions', (SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        " AND state_change < now() - interval '5 s'))",
        since=str(since),
        began=began,
    )
    answers = {}
    for row in rows["deployments"]:
        answers[row["deployment_id"]] = await _ask(rest, row)
    return Final(engines=cluster.engines(), answers=answers, **rows)


def query(postgres: Postgres, statement: str, **variables: str) -> Any:
    """The one JSON value that a statement answers, read as the superuser; `:name` stands for a variable."""
    return json.loads(postgres.psql(f"\\c aiops\n{statement};\n", **variables))


def newest_event(postgres: Postgres) -> int:
    """The id of the last row of the outbox."""
    return int(query(postgres, "SELECT to_json(coalesce(max(id), 0)) FROM outbox"))


async def _ask(rest: httpx.AsyncClient, row: Row) -> Row:
    """What the deployment's own endpoint answers: the status, and who gave the answer."""
    path = f"/models/{row['model_name']}/{row['instance_id']}/v1/inference"
    answer = await rest.post(path, json=question(row["model_name"]))
    served_by = answer.json().get("served_by", {}) if answer.status_code == 200 else {}
    return {"status": answer.status_code, **served_by}


def question(model: str) -> Row:
    """The body of a chat."""
    return {"model": model, "messages": [{"role": "user", "content": "hello"}]}
