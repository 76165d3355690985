"""Logs of nodes that are not there: byte strings that grow when a test says so."""

from controller.nodes.model import LogPage, NodeId, NodeUnreachableError


class MemoryLogs:
    """What the sessions' registry does, over byte strings. `away` nodes do not answer."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.away: set[NodeId] = set()
        self.errors: dict[str, str] = {}

    async def request_logs(self, node_id: NodeId, workload_id: str, offset: int, limit: int) -> LogPage:
        if node_id in self.away:
            raise NodeUnreachableError(f"node {node_id} has no open session", node_id=node_id)
        if workload_id in self.errors:
            return LogPage(b"", 0, 0, True, self.errors[workload_id])
        content = self.content.get(workload_id, b"")
        start = min(offset, len(content)) if offset >= 0 else _start_of_last_lines(content, -offset)
        piece = content[start : start + limit]
        end = start + len(piece)
        return LogPage(piece, start, end, end == len(content))


def _start_of_last_lines(content: bytes, lines: int) -> int:
    return len(content) - len(b"".join(content.splitlines(keepends=True)[-lines:]))
