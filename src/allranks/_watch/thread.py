"""A thread beside the program that hears of failures, and finds out why ranks wait.

Once a second it looks how this rank fares; news, and a death on this host, wake it (``news``).

Each part has its own state: ``event_log_client`` follows the event log, ``status_inquiry``
asks all ranks where they stand, ``peer_search`` finds who has left, ``stall_judge`` is patient with
a collective that does not complete, ``blocked_program`` ends a process that cannot hear. The loop
asks them in turn.
"""

from __future__ import annotations

import threading
import traceback
from concurrent.futures import CancelledError, Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from allranks._system.words import tell
from allranks._watch import flight_recorder
from allranks._watch.blocked_program import BlockedProgram
from allranks._watch.event_log_client import EventHandlers, EventLogClient
from allranks._watch.local_peers import LocalPeers
from allranks._watch.news import News
from allranks._watch.peer_search import PeerSearch
from allranks._watch.progress import CollectiveProgress
from allranks._watch.reporter import Reporter
from allranks._watch.stall_judge import StallJudge
from allranks._watch.status_door import StatusDoor
from allranks._watch.status_inquiry import StatusInquiry
from allranks._watch.store_client import StoreClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from allranks._watch.config import WatchConfig
    from allranks._watch.failures import Failure
    from allranks._watch.status_report import JobReport, Question

FIRST = 0.1
"""Seconds to the first look."""


class WatchThread:
    """The thread, and what the program asks of it.

    Attributes:
        client: leads to the store, over the connection that is sooner free.
    """

    def __init__(self, config: WatchConfig) -> None:
        """Begin to look.

        Args:
            config: what the watch was given.
        """
        self._config = config
        self._local_peers = peers = LocalPeers()
        self.client = client = StoreClient(config.store, peers.wake)
        peers.add(one for one in config.local_peers if one.pid_space == config.me.pid_space)
        progress = CollectiveProgress(blind=_is_blind(config))
        self._inquiry = inquiry = StatusInquiry(config, client, progress, peers)
        self._judge = StallJudge(config, client, inquiry, progress, peers)
        self._blocked = BlockedProgram(config, inquiry, progress)
        # No method of this object: a circle would keep the store open until it is collected.
        on_failure = partial(_hear_failure, inquiry, self._blocked)
        handlers = EventHandlers(on_failure, inquiry.answer, self._judge.hear)
        self._news = News(config, client, peers, inquiry)
        self._log_client = EventLogClient(config, client, self._news, handlers)
        self._search = PeerSearch(config, client, self._log_client, inquiry, peers)
        self._reporter = Reporter(config, client, inquiry, peers)
        self._door = StatusDoor(config, peers)
        self._requests: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_up = False
        self._has_looked = False
        self._thread = threading.Thread(target=self._run, name="allranks-watch", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> Failure | None:
        """The first failure of the world that is known here."""
        return self._log_client.failure

    @property
    def last_verdict(self) -> str:
        """The last verdict that was told; "" if there is none."""
        return self._judge.last_verdict

    def come_up(self) -> None:
        """From now on the process group is up, and other ranks may end as they mean to."""
        self._is_up = True
        self.client.share()

    def request(self, question: Callable[[], Any]) -> Future[Any]:
        """Have a question answered by the thread."""
        future: Future[Any] = Future()

        def answer() -> None:
            try:
                future.set_result(question())
            except Exception as error:  # noqa: BLE001 - raised where it was asked
                future.set_exception(error)

        self._requests.put(answer)
        self._local_peers.wake()
        if not self._thread.is_alive():
            future.cancel()
        return future

    def speaks_for_host(self) -> bool:
        """Whether this rank is the first of its host whose process runs."""
        return self._local_peers.speaks(self._config.me.rank)

    def search(self, among: Sequence[int] = ()) -> Failure | None:
        """Who of some ranks has closed a connection to this one; to be requested."""
        return self._search.run(among, self._hear_news)

    def judge(self) -> str:
        """Why this rank's collective does not go on; to be requested."""
        return self._judge.judge(self._log_client)

    def keep(self, why: str, **more: Any) -> None:
        """Keep where this rank stands, for those who come later, where that is wanted."""
        self._inquiry.keep(why, **more)

    def stop(self) -> None:
        """End the thread; one that is held up by the store is left behind."""
        self._log_client.stopping = True
        self._local_peers.wake()
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._local_peers.close()

    def _run(self) -> None:
        """Look, until the rank leaves; an error of the watch is told and ends nothing else."""
        try:
            while not self._log_client.stopping:
                self._local_peers.wait(self._pause())
                if not self._log_client.stopping:
                    self._look()
        except CancelledError:
            return
        except Exception:  # noqa: BLE001 - nobody else would hear of it
            tell(f"the watch of {self._config.me} has ended:\n{traceback.format_exc()}")
        finally:
            self._door.close()
            self._news.close()

    def _report(self, question: Question) -> JobReport:
        return self._reporter.report(question, self._log_client)

    def _pause(self) -> float:
        """Seconds to the next look, if nothing wakes it before."""
        return self._news.pause if self._has_looked else FIRST

    def _look(self) -> None:
        self._judge.follow(self._log_client)
        self._hear_news()
        self._door.let_in(self.request, self._report)
        while not self._requests.empty():
            self._requests.get()()
        self._blocked.exit_if_blocked()
        self._has_looked = True

    def _hear_news(self) -> None:
        if self._has_looked or not self._is_up:  # A world of a moment needs none.
            self.client.take_own()
        self._log_client.hear()
        for record, code in self._local_peers.ended():
            self._news.forget(record.rank)
            self._search.on_process_exit(record, code, is_up=self._is_up)


def _hear_failure(inquiry: StatusInquiry, blocked: BlockedProgram, failure: Failure) -> None:
    inquiry.keep(f"heard that {failure}")
    blocked.begin(failure)


def _is_blind(config: WatchConfig) -> bool:
    why = flight_recorder.why_blind()
    if why and config.me.rank == 0:
        tell(f"note: if a job hangs in a call of torch's own, nobody can tell which: {why}")
    return why is not None
