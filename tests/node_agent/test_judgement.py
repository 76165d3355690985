"""What the end of a process is told as."""

import signal
from datetime import UTC, datetime

import pytest

from node_agent.engines.diagnosis import diagnose
from node_agent.runtime.model import Ended, Instance
from node_agent.workloads.judgement import exit_code, judge
from node_agent.workloads.model import Event, Process, Readiness

PROCESS = Process(Instance("1", 1, "x"), 4, "transformers", 15_000, datetime(2026, 1, 1, tzinfo=UTC), Readiness("", ""))


@pytest.mark.parametrize(
    ("ended", "log", "event", "reason", "code", "words"),
    [
        (Ended(1), "MemoryError", Event.OOM, "OUT_OF_MEMORY", 1, "not enough free memory"),
        (Ended(-9, out_of_memory=True), "", Event.OOM, "OUT_OF_MEMORY", 137, "killed for lack of memory"),
        (Ended(-9), "", Event.DIED, "ENGINE_FAILED", 137, "ended by signal 9"),
        (Ended(None), "MemoryError", Event.DIED, "ENGINE_FAILED", -1, "unknown exit code"),
        (Ended(-11), "", Event.DIED, "ENGINE_FAILED", 139, "segmentation fault"),
        (Ended(1), "OSError: [Errno 98] address already in use", Event.DIED, "PORT_IN_USE", 1, "already in use"),
        (Ended(0), "", Event.DIED, "ENGINE_FAILED", 0, "exit code 0"),
    ],
)
def test_an_end_has_an_event_a_reason_and_a_sentence(
    ended: Ended, log: str, event: Event, reason: str, code: int, words: str
) -> None:
    diagnosis = diagnose(ended.code, log) if ended.code is not None else None
    told, failure = judge(PROCESS, ended, diagnosis, log)
    assert (told, failure.reason, failure.exit_code, failure.epoch) == (event, reason, code, 4)
    assert words in failure.error
    assert failure.log_tail == log


def test_no_process_ended_with_nothing() -> None:
    assert exit_code(None) == 0
    assert exit_code(Ended(-signal.SIGTERM)) == 128 + signal.SIGTERM
