"""Where a rank's news come from: from a rank of its host, from a parked wait, or by looking.

The lowest rank of a host parks one wait in the store; the others follow it (``host_news``). If the
one that a rank follows leaves, or gives no sign of life, the rank follows the next one below it,
and after the last of them parks a wait of its own. It never goes back: then more ranks of a host
may wait than need to, which costs little. Where a store cannot park a wait, each rank looks once a
second.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Protocol

from allranks._system.waiting import Deadline
from allranks._watch import host_news
from allranks._watch.config import TICK
from allranks._watch.event_log import park_key
from allranks._watch.host_news import Followers, Message
from allranks._watch.parked_wait import ParkedWait

if TYPE_CHECKING:
    import socket

    from allranks._rendezvous.record import RankRecord
    from allranks._watch.config import WatchConfig
    from allranks._watch.event_log import EventLog, NumberedEntry
    from allranks._watch.local_peers import LocalPeers
    from allranks._watch.store_client import StoreClient

FALLBACK = 25.0
"""Seconds between two looks beside a parked wait: who posts an entry may die before it wakes us."""

WARM = 200.0
"""Seconds between two looks of a rank that follows: a connection must not idle for too long."""

SIGN = 1.0
"""Seconds between two signs of life."""

MUTE = 8
"""After how many such times without a sign of life a rank is followed no longer."""

SLOWEST = 32.0
"""Seconds between two looks at a store that answers late, at most."""


class Inquiry(Protocol):
    """What a look must know of the ranks' inquiries."""

    @property
    def in_hurry(self) -> bool:
        """Whether the ranks were asked a moment ago."""


class Source(Protocol):
    """One of the three ways.

    Attributes:
        over: whether nothing comes from there any longer.
        is_store: whether it is the store itself.
        is_settled: whether it needs nothing before the next news.
        pause: seconds to the next look there, if nothing wakes the watch before.
    """

    over: bool
    is_store: bool

    @property
    def is_settled(self) -> bool: ...

    @property
    def pause(self) -> float: ...

    def hear(self, log: EventLog) -> None:
        """Let the log have the entries that are new."""

    def close(self) -> None:
        """Leave nothing behind."""


class News:
    """A rank's source of news, and those that follow the rank.

    Attributes:
        source: where they come from; None until this rank hears for the first time.
    """

    def __init__(
        self, config: WatchConfig, client: StoreClient, peers: LocalPeers, inquiry: Inquiry
    ) -> None:
        """Hear nothing yet.

        Args:
            config: what the watch was given.
            client: leads to the store.
            peers: wakes the watch.
            inquiry: tells when looks are to be closer together.
        """
        self._config = config
        self._client = client
        self._peers = peers
        self._inquiry = inquiry
        near = [one for one in config.local_peers if one.pid_space == config.me.pid_space]
        self._followers = Followers(config.listener, near, peers)
        self._below = [
            one for one in near if one.rank < config.me.rank and one.socket and config.listener
        ]
        self.source: Source | None = None
        self._sign = Deadline.after(0.0)
        self._said_lost = False

    @property
    def from_store(self) -> bool:
        """Whether this rank hears the news from the store, and not from another rank."""
        return self.source is None or self.source.is_store

    @property
    def pause(self) -> float:
        """Seconds to the next look, if nothing wakes the watch before."""
        return self.source.pause if self.source else TICK

    def wait(self, seconds: float) -> None:
        """Block for so many seconds, or until there may be news."""
        self._peers.wait(seconds)

    def hear(self, log: EventLog) -> None:
        """Let the log have the entries that are new, and give a sign of life."""
        if self.source is None or self.source.over:
            self.source = self._next_source()
        self.source.hear(log)
        self._followers.accept(self._message(log.count))
        if self._sign.passed or (self._client.lost and not self._said_lost):
            self._sign, self._said_lost = Deadline.after(SIGN), bool(self._client.lost)
            self._followers.tell(self._message(log.count))

    def hand_on(self, entry: NumberedEntry) -> list[int]:
        """Tell those that follow of an entry; the ranks that have it, or have left."""
        return self._followers.tell(Message(entry.number, lost=False, body=entry.text))

    def forget(self, rank: int) -> None:
        """A rank of this host has ended."""
        self._below = [one for one in self._below if one.rank != rank]
        if isinstance(self.source, Followed) and self.source.rank == rank:
            self.source.over = True

    def close(self) -> None:
        """Leave nothing behind, in the store neither."""
        if self.source:
            self.source.close()
        self._followers.close()

    def _message(self, read: int) -> Message:
        return Message(read, bool(self._client.lost), self._client.lost.encode()[:1000])

    def _next_source(self) -> Source:
        before, self.source = self.source, None
        if before:
            before.close()
        if not self._config.parks:
            return Looks(self._config, self._client, self._inquiry)
        while self._below:
            record = self._below.pop(0)
            if connection := host_news.connected(record):
                return Followed(record, connection, self._client, self._peers)
        return Parked(self._config, self._client, self._peers, TICK if before else 0.0)


class Looks:
    """Looks at the store once a second; in large worlds less often."""

    over, is_store, is_settled = False, True, True

    def __init__(self, config: WatchConfig, client: StoreClient, inquiry: Inquiry) -> None:
        """Look at once, the first time."""
        self._config = config
        self._client = client
        self._inquiry = inquiry
        self._looked_at = -math.inf
        self._slower = 1.0

    def hear(self, log: EventLog) -> None:
        """Look, if it is time to."""
        is_time = time.monotonic() - self._looked_at >= self._interval
        if is_time and self._client.is_open:
            self._client.ask(log.fetch, None)
            self._slower = min(2 * self._slower, SLOWEST) if self._client.silent else 1.0
            self._looked_at = time.monotonic()

    @property
    def pause(self) -> float:
        """Seconds to the next look."""
        return min(self._interval, TICK)

    @property
    def _interval(self) -> float:
        """A store that answers late is asked less often, not more."""
        if self._inquiry.in_hurry and not self._client.silent:
            return self._config.hurried_interval
        interval = self._config.look_interval
        return min(interval * self._slower, max(interval, SLOWEST))

    def close(self) -> None:
        """There is nothing to leave."""


class Parked:
    """Parks a wait in the store for the log's next entry."""

    over, is_store, pause = False, True, TICK

    def __init__(
        self, config: WatchConfig, client: StoreClient, peers: LocalPeers, pause: float
    ) -> None:
        """Park nothing yet.

        Args:
            config: what the watch was given.
            client: leads to the store, for what is asked beside the wait.
            peers: wakes the watch when the wait ends.
            pause: seconds until a wait is parked: those of a host may all be leaving.
        """
        self._client = client
        self._node = config.node_rank
        self._wait = ParkedWait(config.store, peers.wake)
        self._slot = 0
        self._next = Deadline.after(pause)
        self._look = Deadline.after(FALLBACK)

    @property
    def is_settled(self) -> bool:
        """Whether a wait is parked."""
        return self._wait.is_parked

    def hear(self, log: EventLog) -> None:
        """Read the entries that the wait has ended for, and wait for the next one."""
        if self._client.lost:
            return
        if self._wait.is_parked:
            if self._look.passed:
                self._look_beside(log)
            return
        was_called = self._was_called()
        if self._next.passed and not self._client.lost:
            self._park(log, was_called=was_called)

    def _was_called(self) -> bool:
        """Whether a wait has ended by its key."""
        try:
            outcome = self._wait.outcome()
        except ConnectionError:
            self._next = Deadline.after(TICK)
            return False
        self._client.lost = outcome or ""
        return outcome == ""

    def _park(self, log: EventLog, *, was_called: bool) -> None:
        """Look, and park: the key of an entry that is there already may never be set.

        What was found is reacted to first: it may be that rank 0 leaves, and its store with it.
        """
        self._client.ask(log.fetch, None)
        if was_called and log.count == self._slot:
            self._clear_key()
        elif log.has_unheard:
            self._next = Deadline.after(0.0)
        elif self._client.has_own and not self._client.cut_off:
            self._slot, self._look = log.count, Deadline.after(FALLBACK)
            self._wait.park(park_key(self._slot, self._node))
        else:
            self._next = Deadline.after(TICK)

    def _clear_key(self) -> None:
        """Another rank of this host has set it, to end its own wait: others may follow it."""
        key = self._wait.key
        self._client.ask(lambda store: store.delete_key(key), otherwise=False)
        self._next = Deadline.after(TICK)

    def _look_beside(self, log: EventLog) -> None:
        self._look = Deadline.after(FALLBACK)
        self._client.ask(log.fetch, None)
        if log.count > self._slot:
            self._release()

    def _release(self) -> None:
        key = self._wait.key
        self._client.ask(lambda store: store.set(key, ""), None)

    def close(self) -> None:
        """End the wait: torch would take the process along, at the interpreter's end."""
        if self._wait.is_parked and not self._client.cut_off:
            self._release()
            self._wait.ended_in_time()


class Followed:
    """Hears the news from another rank of this host.

    Attributes:
        rank: that rank.
    """

    is_store, is_settled, pause = False, True, TICK

    def __init__(
        self,
        record: RankRecord,
        connection: socket.socket,
        client: StoreClient,
        peers: LocalPeers,
    ) -> None:
        """Hear nothing yet.

        Args:
            record: of that rank.
            connection: to it.
            client: leads to the store, where entries are read that it does not tell.
            peers: wakes the watch when it tells something.
        """
        self.rank = record.rank
        self.over = False
        self._connection = connection
        self._client = client
        self._peers = peers
        self._silence = 0
        self._next = Deadline.after(SIGN)
        self._look = Deadline.after(WARM)
        peers.hear(connection)

    def hear(self, log: EventLog) -> None:
        """Take what it has told; count the times in which it tells nothing."""
        read = True
        try:
            for message in host_news.received(self._connection):
                self._silence = 0
                read = self._take(log, message)
        except OSError:
            self.over = True
        if not read or self._look.passed:
            self._look = Deadline.after(WARM)
            self._client.ask(log.fetch, None)
        self._count_silence()

    def _take(self, log: EventLog, message: Message) -> bool:
        """Take one message; whether all is read now that its sender has read."""
        if message.lost:
            self._client.lost = self._client.lost or message.body.decode(errors="replace")
        elif message.body and message.read == log.count + 1:
            log.take(message.read - 1, message.body)
        return message.lost or message.read <= log.count

    def _count_silence(self) -> None:
        """However long this rank itself was stopped, that counts as one time."""
        if self._next.passed:
            self._silence, self._next = self._silence + 1, Deadline.after(SIGN)
        self.over = self.over or self._silence > MUTE

    def close(self) -> None:
        """Let go of the connection."""
        self._peers.unhear(self._connection)
        self._connection.close()
