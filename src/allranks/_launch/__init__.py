"""Ranks of this host as children of one process: ``allranks run``, ``launch``, the test plugin.

Read ``template`` (a process that holds torch, and forks ranks), ``job`` (orders ranks of it, and
sees them end) and ``launch`` with ``remote_call``, a rank's side. ``supervisor`` watches over the
ranks of ``allranks run``, with ``rank_process`` on a rank's side and ``session_reaper`` beside
it. Both read their ranks' output through ``pipes``; ``local_world`` is where the ranks meet.
"""
