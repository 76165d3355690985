"""What a replica is said to be, and when the controller is told."""

from dataclasses import dataclass
from datetime import timedelta

from node_agent.workloads.model import (
    Container,
    Event,
    Failure,
    Health,
    Process,
    Record,
    Report,
    State,
    WorkloadStatus,
)


@dataclass(frozen=True, slots=True)
class News:
    """What changed. `process` is the one told of where it is not the record's any more; `detail` is for people.

    `next_attempt` is how long until the engine is started again, 0 when that is not what it waits for.
    """

    state: State
    progress: int = 0
    health: Health = Health.UNKNOWN
    event: Event = Event.NONE
    process: Process | None = None
    failure: Failure | None = None
    exit_code: int = 0
    next_attempt: timedelta = timedelta()
    detail: str = ""


class Condition:
    """State, progress and health of one replica, as last told."""

    def __init__(self, record: Record, report: Report) -> None:
        self._report = report
        self._state, self._progress, self._health = _first_state(record), 0, Health.UNKNOWN
        self._detail = ""

    def tell(self, record: Record, revision: int, news: News) -> None:
        """Tells the controller, unless it knows. An end is always told."""
        now = (news.state, news.progress, news.health, news.detail)
        known = now == (self._state, self._progress, self._health, self._detail) and news.event is Event.NONE
        self._state, self._progress, self._health, self._detail = now
        if not known or news.state in {State.STOPPED, State.FAILED}:
            self._report(self._status(record, revision, news))

    def status(self, record: Record, revision: int) -> WorkloadStatus:
        """What there is to say now, without an event."""
        failure = record.failure
        code = failure.exit_code if failure else 0
        news = News(self._state, self._progress, self._health, failure=failure, exit_code=code, detail=self._detail)
        return self._status(record, revision, news)

    def container(self, record: Record) -> Container:
        """The replica as it runs now, without its usage."""
        runtime = record.process.instance.runtime if record.process else record.spec.runtime
        return Container(record, self._state, runtime)

    def _status(self, record: Record, revision: int, news: News) -> WorkloadStatus:
        process = news.process or record.process
        return WorkloadStatus(
            key=record.spec.key,
            epoch=process.epoch if process else record.spec.epoch,
            state=news.state,
            progress=news.progress,
            process=process,
            container=self.container(record),
            health=news.health,
            event=news.event,
            failure=news.failure,
            exit_code=news.exit_code,
            next_attempt=news.next_attempt,
            revision=revision,
            adapters=record.adapters,
            detail=news.detail,
        )


def _first_state(record: Record) -> State:
    if record.failure:
        return State.FAILED
    return State.RUNNING if record.process and record.process.ready else State.STARTING
