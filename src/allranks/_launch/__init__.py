"""Ranks of this host as children of one process: ``allranks run``, ``launch``, the test plugin.

Read ``template`` (a process that holds torch, and forks ranks), ``job`` (orders ranks of it, and
sees them end) and ``launch`` with ``remote_call``, a rank's side. ``supervisor`` watches over the
ranks of ``allranks run``: ``child_rank`` starts them, ``rank_process`` is a rank's side,
``received_signals`` wakes the supervisor, ``session_reaper`` stands beside it, and ``job_outcome``
says how it ended. Both end a forked rank by ``leaving``, read their ranks' output through ``pipes``
and show it by ``rank_output``, what ranks write alike once (``folded_lines``); ``local_world`` is
where the ranks meet.
"""
