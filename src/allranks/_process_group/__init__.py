"""The world of this process: its settings, its device, its process group from setup to cleanup.

Read ``lifecycle`` (the owner of the state), then ``bring_up`` (the way of ``setup``) and its steps,
``settings``, ``intended_world``, ``inherited``, ``own_record``, ``init_group``, and ``adopt`` (its
way where other code has made the group); they set ``devices``, ``environment`` and ``binding`` (to
CPUs, by ``cpu_shares``). ``ranks``, ``host_groups`` and ``mesh`` say who is where; ``together`` is
what ranks decide together, in ``turns`` where one goes first; ``printing`` silences all but rank 0;
``stop_signals`` is what a scheduler asks; ``connect_errors`` says why gloo did not connect.
"""
