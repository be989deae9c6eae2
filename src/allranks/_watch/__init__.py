"""Who has failed, who waits for whom, and why: the watch beside each rank's program.

Read ``failures`` (what the program asks of its watch) and ``watch``, then ``config``, ``thread``
and its parts: ``event_log_client``, ``status_inquiry``, ``peer_search``, ``stall_judge``,
``blocked_program``. They know of calls by ``flight_recorder``, ``progress``, ``waits`` and
``torch_groups``, of processes by ``local_peers``, and of other ranks by ``event_log`` and
``status_answers``, through ``store_client``. ``news`` says from where a rank hears what is new: by
``parked_wait`` in the store, or by ``host_news`` from another rank. ``diagnosis`` makes the
verdict, purely; ``evidence`` keeps it in files. ``status_door`` lets those in who ask from outside,
and ``reporter`` tells them what ``status_report`` and ``rank_detail`` describe.
"""
