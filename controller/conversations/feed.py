"""Who hears of what is said: followers of conversations, in this process and, by short words, in the others."""

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from controller.conversations.model import Conversation, ConversationId, Key, SenderType
from controller.conversations.news import AgentStatus, Delta, Entry, Gone, Live, News, Typing
from controller.conversations.refusals import ConversationNotFoundError
from controller.conversations.service import UnitOfWork, Work
from mesh.identity import SYSTEM, OrgId
from mesh.loops import Wake

# A lost hint is made up for by looking.
POLL = timedelta(seconds=1)
# Of what does not last, a follower that is slow hears the newest.
LIVE_KEPT = 512
BATCH = 200


class Feed:
    """Hints that conversations changed, and what does not last. `tell_others` takes words that `hear` understands."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self.tell_others: Callable[[str], None] = lambda _: None
        self._unit_of_work = unit_of_work
        self._followers: defaultdict[Key, set[Follower]] = defaultdict(set)

    def changed(self, key: Key) -> None:
        """A conversation has a new entry, or is gone."""
        self._hint(key)
        self.tell_others(json.dumps([key.org_id, key.conversation_id]))

    def pass_on(self, live: Live) -> None:
        """Something that does not last happened."""
        self._show(live)
        self.tell_others(_word_of(live))

    def hear(self, word: str) -> None:
        """A word of another process."""
        org_id, conversation_id, *live = json.loads(word)
        key = Key(OrgId(org_id), ConversationId(conversation_id))
        if live:
            self._show(_live_of(key, *live))
        else:
            self._hint(key)

    @contextmanager
    def follower(self) -> Iterator["Follower"]:
        """A follower of nothing yet."""
        follower = Follower(self._unit_of_work, self._followers)
        try:
            yield follower
        finally:
            follower.close()

    def _hint(self, key: Key) -> None:
        for follower in self._followers.get(key, ()):
            follower.hint(key)

    def _show(self, live: Live) -> None:
        for follower in self._followers.get(live.key, ()):
            follower.show(live)


@dataclass(slots=True)
class _Followed:
    """How far a follower is. The conversation is read when it is first needed, for its epoch."""

    offset: int
    conversation: Conversation | None = None


class Follower:
    """Hears of every entry of its conversations once, in order, whatever hints are lost."""

    def __init__(self, unit_of_work: UnitOfWork, registry: defaultdict[Key, set["Follower"]]) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._followed: dict[Key, _Followed] = {}
        self._due: dict[Key, None] = {}
        self._live: deque[Live] = deque(maxlen=LIVE_KEPT)
        self._wake = Wake()

    def subscribe(self, key: Key, offset: int) -> None:
        """Entries behind the offset are wanted."""
        self._followed[key] = _Followed(offset)
        self._registry[key].add(self)
        self.hint(key)

    def unsubscribe(self, key: Key) -> None:
        """The conversation is of no interest any more."""
        self._followed.pop(key, None)
        self._registry[key].discard(self)
        if not self._registry[key]:
            del self._registry[key]

    def follows(self, key: Key) -> bool:
        """Whether it is subscribed."""
        return key in self._followed

    def close(self) -> None:
        """Follows nothing any more."""
        for key in list(self._followed):
            self.unsubscribe(key)

    def hint(self, key: Key) -> None:
        """There may be something new."""
        self._due[key] = None
        self._wake.set()

    def show(self, live: Live) -> None:
        """Takes what does not last, as long as there is room."""
        self._live.append(live)
        self._wake.set()

    async def news(self) -> AsyncIterator[News]:
        """What happens, until nobody asks any more. UnavailableError while the database is away."""
        while True:
            if not await self._wake.wait(POLL):
                await self._look_around()
            while self._live:
                live = self._live.popleft()
                if live.key in self._followed:
                    yield live
            while self._due:
                key = next(iter(self._due))
                del self._due[key]
                async for each in self._behind(key):
                    yield each

    async def _look_around(self) -> None:
        """Finds what no hint told of."""
        if not self._followed:
            return
        async with self._unit_of_work.reading(SYSTEM) as work:
            heads = await work.conversations.heads(list(self._followed))
        for key, followed in self._followed.items():
            if heads.get(key, -1) != followed.offset:
                self._due[key] = None

    async def _behind(self, key: Key) -> AsyncIterator[News]:
        while (followed := self._followed.get(key)) is not None:
            try:
                async with self._unit_of_work.reading(SYSTEM) as work:
                    found = await _read(work, key, followed)
            except ConversationNotFoundError:
                self.unsubscribe(key)
                yield Gone(key)
                return
            for entry in found:
                # Whoever subscribed again meanwhile began anew.
                if self._followed.get(key) is not followed:
                    break
                followed.offset = entry.offset
                yield entry
            if len(found) < BATCH:
                return


async def _read(work: Work, key: Key, followed: _Followed) -> list[Entry]:
    if followed.conversation is None:
        followed.conversation = await work.conversations.find(key)
    found = list(await work.entries.after(followed.conversation, followed.offset, BATCH))
    if not found:
        # A hint without an entry: perhaps it is gone.
        await work.conversations.find(key)
    return found


_KINDS: dict[str, type[Typing] | type[Delta] | type[AgentStatus]] = {
    "typing": Typing,
    "delta": Delta,
    "status": AgentStatus,
}


def _word_of(live: Live) -> str:
    kind = next(name for name, kind in _KINDS.items() if isinstance(live.what, kind))
    fields = asdict(live.what)
    if isinstance(live.what, Typing):
        fields["sender_type"] = live.what.sender_type.value
    return json.dumps([live.key.org_id, live.key.conversation_id, kind, live.at, fields], ensure_ascii=False)


def _live_of(key: Key, kind: str, at: float, fields: dict[str, Any]) -> Live:
    if kind == "typing":
        fields = {**fields, "sender_type": SenderType(fields["sender_type"])}
    return Live(key, at, _KINDS[kind](**fields))
