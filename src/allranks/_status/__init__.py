"""What ``allranks status`` and ``dump`` do: find the jobs of this host, and ask a rank of each.

It owns nothing that lasts. Read ``local_ranks`` first, which finds the ranks' sockets and asks
there; ``jobs`` makes one picture of a job; ``table`` shows it, ranks that stand ``alike`` as one
row, and ``command`` as it was asked for.
``dump`` writes files instead, and a ``page``: ``waiting_for`` says who waits for whom, which
``waiting_picture`` draws; ``lanes`` says who came when, which ``lanes_picture`` draws.
"""
