"""What the end of a process means: an event, and a sentence for whoever deployed it."""

import signal

from node_agent.engines.diagnosis import SMALLER
from node_agent.engines.engine import Diagnosis, FailureReason
from node_agent.runtime.model import Ended
from node_agent.workloads.model import Event, Failure, Process

_UNKNOWN_EXIT = -1


def judge(process: Process, ended: Ended, diagnosis: Diagnosis | None, tail: str) -> tuple[Event, Failure]:
    """The event and the failure.

    The engine's diagnosis is told, except where it could only guess: without an exit code, and after a SIGKILL, of
    which the kernel knows whether it came for lack of memory.
    """
    guess = ended.code in {None, -signal.SIGKILL}
    known = None if guess else diagnosis
    if ended.out_of_memory:
        reason = FailureReason.OUT_OF_MEMORY
    else:
        reason = known.reason if known else FailureReason.ENGINE_FAILED
    failure = Failure(process.epoch, _sentence(ended, known), reason, tail, exit_code(ended))
    return Event.OOM if reason is FailureReason.OUT_OF_MEMORY else Event.DIED, failure


def exit_code(ended: Ended | None) -> int:
    """As shells count: 128 and the signal's number for a process that a signal ended; -1 when nobody knows."""
    if ended is None:
        return 0
    if ended.code is None:
        return _UNKNOWN_EXIT
    return 128 - ended.code if ended.code < 0 else ended.code


def _sentence(ended: Ended, diagnosis: Diagnosis | None) -> str:
    if ended.out_of_memory:
        return f"The engine {ended}. {SMALLER}"
    if diagnosis is None:
        return f"The engine {ended}."
    return f"{diagnosis.message[:1].upper()}{diagnosis.message[1:]}. {diagnosis.suggestion}"
