"""Channels: the codecs of one direction, and the messages that both ends of it remember.

Both ends keep one base a client, of the last message that the receiver acknowledged: an upload by accepting it, a broadcast
by sending an upload that was accepted. So a late, lost or rejected message breaks no chain: the next is coded against an
older base, or against none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from flwr.app import RecordDict

from fedkd.knowledge import codecs
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import from_records, to_records


@final
class ServerChannel:
    """The server's end of the channels to all clients."""

    def __init__(self, direction: str, names: Sequence[str]) -> None:
        self.direction, self.codecs = direction, codecs.chain(names, direction)
        self.needs_base = any(codec.needs_base for codec in self.codecs)
        self._held: dict[int, tuple[str, codecs.Bases]] = {}

    def which(self, client: int) -> str:
        """Which message both ends hold as a base, as ``"round.exchange"``; empty for none."""
        return self._held[client][0] if self.needs_base and client in self._held else ""

    def bases(self, client: int) -> codecs.Bases:
        """What that message left behind."""
        return self._held[client][1] if client in self._held else {}

    def hold(self, client: int, which: str, bases: codecs.Bases) -> None:
        """Both ends have this message."""
        if self.needs_base:
            self._held[client] = (which, bases)

    def forget(self, client: int) -> None:
        """Nobody knows what the client has: the next message is coded against none."""
        self._held.pop(client, None)

    def save(self) -> dict[str, RecordDict]:
        """The bases, for a checkpoint."""
        return {
            f"base/{self.direction}/{client}/{which}/{position}": to_records(base)
            for client, (which, bases) in self._held.items()
            for position, base in bases.items()
        }

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """Take the bases from a checkpoint's parts."""
        for key in (key for key in parts if key.startswith(f"base/{self.direction}/")):
            _, _, client, which, position = key.split("/")
            bases = self._held.get(int(client), (which, {}))[1]
            self._held[int(client)] = (which, {**bases, int(position): from_records(parts[key])})


@final
class ClientChannel:
    """A client's end of its channel; what it remembers lies in the client's memory."""

    def __init__(self, direction: str, names: Sequence[str], memory: Memory) -> None:
        self.codecs, self._memory = codecs.chain(names, direction), memory
        self._positions = [position for position, codec in enumerate(self.codecs) if codec.needs_base]
        self._prefix = f"codec/{direction}/"

    def encode(self, upload: Knowledge, which: str, *, acknowledged: str) -> Knowledge:
        """An upload coded against the last acknowledged one, if that is remembered: then its header names it as ``base``."""
        bases = self._load(acknowledged)
        message, left = codecs.encode(self.codecs, upload, bases)
        self._remember(which, left, keep=acknowledged)
        return message.with_header(base=acknowledged) if bases else message

    def decode(self, message: Knowledge, which: str, *, against: str) -> Knowledge:
        """A broadcast that is coded against an older one. Raises ValueError if that one is no longer remembered."""
        bases = self._load(against)
        if against and not bases:
            raise ValueError(f"the broadcast is coded against that of {against}, which this client does not remember")
        broadcast, left = codecs.decode(self.codecs, message, bases)
        self._remember(which, left, keep=against)
        return broadcast

    def _load(self, which: str) -> dict[int, Knowledge]:
        """What message ``which`` left, which may be empty; nothing if it is not remembered."""
        if not which or f"{self._prefix}{which}/" not in self._memory:
            return {}
        left = {position: self._memory.under(f"{self._prefix}{which}/{position}/") for position in self._positions}
        return {position: Knowledge.of("coded", tensors) for position, tensors in left.items()}

    def _remember(self, which: str, bases: codecs.Bases, *, keep: str) -> None:
        """Keep what this message leaves, and what ``keep`` left; forget all others."""
        if not self._positions:
            return
        kept = f"{self._prefix}{keep}/"
        for key in [key for key in self._memory if key.startswith(self._prefix) and not (keep and key.startswith(kept))]:
            del self._memory[key]
        self._memory[f"{self._prefix}{which}/"] = "remembered"
        for position, base in bases.items():
            self._memory.store(f"{self._prefix}{which}/{position}/", base.tensors)
