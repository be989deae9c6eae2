"""What ``allranks status`` does: find the jobs of this host, ask one rank of each, show a table.

It owns nothing that lasts. Read ``local_ranks`` first, which finds the ranks' sockets and asks
there; ``jobs`` makes one picture of a job; ``table`` shows it, ``command`` as it was asked for.
"""
