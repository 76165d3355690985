"""Where a socket is in a conversation: entries come twice, early or not at all; each is passed on once, in order."""

from typing import Generic, TypeVar

Frame = TypeVar("Frame")
# Early entries that are kept; of the others only is known that they are there to be read.
HELD = 256


class Cursor(Generic[Frame]):
    """The offset up to which everything was passed on, and what came too early."""

    def __init__(self, offset: int, held: int = HELD) -> None:
        self.offset = offset
        self._highest = offset
        self._most = held
        self._held: dict[int, Frame] = {}

    @property
    def behind(self) -> bool:
        """Whether there are entries that somebody must read, because nobody will bring them again."""
        return self._highest > self.offset

    def tell(self, offset: int) -> None:
        """There are entries up to this offset."""
        self._highest = max(self._highest, offset)

    def offer(self, offset: int, frame: Frame) -> list[Frame]:
        """Takes an entry; answers those that may be passed on now, in order."""
        self.tell(offset)
        if offset <= self.offset:
            return []
        if offset > self.offset + 1:
            if len(self._held) < self._most:
                self._held[offset] = frame
            return []
        due = [frame]
        self.offset = offset
        while (following := self._held.pop(self.offset + 1, None)) is not None:
            self.offset += 1
            due.append(following)
        # A kept entry may have been passed on in another way meanwhile.
        for early in [each for each in self._held if each <= self.offset]:
            del self._held[early]
        return due
