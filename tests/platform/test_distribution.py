"""A model that one node has comes to the next one from there, and not from the object storage."""

import re
import secrets
import shutil
from pathlib import Path

import httpx
import pytest

from stack.demo.platform import demo_model
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.served import Served, deploy, running, stop

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)

FETCHED = re.compile(r'^aiops_node_model_fetched_bytes_total\{source="(\w+)"\} (\S+)$', re.MULTILINE)


async def fetched(served: Served, node: str) -> dict[str, float]:
    """Bytes that a node has fetched, by where they came from."""
    address = served.platform.state.service(node).address
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://{address}/metrics")).text
    return {source: float(count) for source, count in FETCHED.findall(text)}


async def test_the_second_node_reads_a_model_from_the_first(
    served: Served, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model(), folder)
    notes = secrets.token_hex(2 * 1024 * 1024)  # what no node has yet
    (folder / "notes.txt").write_text(notes)
    served.platform.aiops_json("models", "import", str(folder), "--name", "distributed")
    before = {node: await fetched(served, node) for node in served.nodes}
    made = []
    for node in ("node-1", "node-2"):
        made.append(await deploy(rest, modelId="distributed", nodeId=served.nodes[node]))
        await running(rest, made[-1]["deploymentId"])
    after = {node: await fetched(served, node) for node in served.nodes}
    came = {node: {source: after[node][source] - before[node][source] for source in after[node]} for node in after}
    assert came["node-1"] == {"storage": len(notes), "nodes": 0}
    assert came["node-2"] == {"storage": 0, "nodes": len(notes)}
    for deployment in made:
        await stop(rest, deployment["deploymentId"])
