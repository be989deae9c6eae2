"""Who comes last, how often, and what it costs the others.

Read ``lateness``: from how long each rank was in each call to who came last, purely. ``merging``
gets that from all ranks, for exchanges of ours and for what torch has recorded. ``stragglers`` is
what the user calls; ``reports`` has a line printed now and then, where ``asked`` says so.
"""
