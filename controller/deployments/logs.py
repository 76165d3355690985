"""The logs of engines, read where they are: on their nodes."""

import asyncio
import codecs
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from controller.deployments.model import Deployment, DeploymentId, DeploymentStatus, LogsUnavailableError
from controller.deployments.stores import UnitOfWork
from controller.nodes.model import LogPage, NodeUnreachableError
from controller.nodes.service import NodeLogs
from mesh.errors import InvalidPageTokenError
from mesh.identity import Caller

PAGE_BYTES = 256 * 1024
DEFAULT_LINES = 100
FIRST_PAUSE = timedelta(milliseconds=300)
LONGEST_PAUSE = timedelta(seconds=1)
_ENDED = (DeploymentStatus.STOPPED, DeploymentStatus.FAILED)


@dataclass(frozen=True, slots=True)
class Log:
    """A piece of a log. `next_token` reads on from its end; `end`: nothing follows now."""

    text: str
    next_token: str
    end: bool


class Logs:
    """Reads logs."""

    def __init__(self, unit_of_work: UnitOfWork, source: NodeLogs) -> None:
        self._unit_of_work = unit_of_work
        self._source = source

    async def page(self, caller: Caller, deployment_id: DeploymentId, lines: int, token: str) -> Log:
        """The last lines, or what follows after a token.

        NodeUnreachableError when the node cannot be asked, unless the engine failed: then the end of its log, which was
        kept, is answered. LogsUnavailableError when the node has no log.
        """
        deployment = await self._get(caller, deployment_id)
        return await self._read(deployment, _offset(token) if token else -(lines or DEFAULT_LINES))

    async def follow(self, caller: Caller, deployment_id: DeploymentId, lines: int) -> AsyncIterator[str]:
        """The last lines, then what is written, until the deployment has ended and its log is read."""
        offset, pause, begun = -(lines or DEFAULT_LINES), FIRST_PAUSE, False
        while True:
            # Asked before the log is read, so that nothing written before the end is missed.
            deployment = await self._get(caller, deployment_id)
            ended = deployment.status in _ENDED
            try:
                log = await self._read(deployment, offset)
            except (LogsUnavailableError, NodeUnreachableError):
                if ended and begun:
                    return
                raise
            offset, begun = _offset(log.next_token), True
            if log.text:
                yield log.text
                pause = FIRST_PAUSE
            if log.end and ended:
                return
            if log.end:
                await asyncio.sleep(pause.total_seconds())
                pause = min(pause * 1.5, LONGEST_PAUSE)

    async def _get(self, caller: Caller, deployment_id: DeploymentId) -> Deployment:
        async with self._unit_of_work.reading(caller) as work:
            return await work.deployments.get(deployment_id, caller)

    async def _read(self, deployment: Deployment, offset: int) -> Log:
        kept = deployment.observed.log_tail
        try:
            page = await self._source.request_logs(deployment.node_id, deployment.deployment_id, offset, PAGE_BYTES)
        except NodeUnreachableError:
            if not kept:
                raise
            # The kept end answers who asks for the last lines; who reads on is told that nothing follows.
            return Log(kept if offset < 0 else "", str(max(0, offset)), end=True)
        if page.error:
            raise LogsUnavailableError(deployment.deployment_id, page.error)
        return _log(page)


def _log(page: LogPage) -> Log:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(page.content)
    # A character that is cut in two at the page's end belongs to the next page.
    cut = len(decoder.getstate()[0])
    return Log(text, str(page.next_offset - cut), page.end)


def _offset(token: str) -> int:
    if not token.isascii() or not token.isdigit() or len(token) > 18:
        raise InvalidPageTokenError("page_token is not one this log made; start again without it")
    return int(token)
