"""From a ``World`` to a store that all its ranks share, and to what they know of each other.

Read in the order of the work: ``plan`` (where to meet), ``gathering`` (how all come together),
``host_meeting`` (one rank goes for all of its host), ``meet`` (rank 0 hosts the store) and
``store_search`` (the others find it), which make a ``meeting``; ``record`` and ``roll_call`` (who
is there), with ``batches``, ``attendance``, ``judge`` (rank 0 finds what is wrong) and ``verdicts``
(what it told). Beside them: ``tcp_store`` (torch's store at an
address), ``address_board`` (rank 0 posts its address in a file or an agent's store),
``private_store``, ``file_backed_store`` and ``store_file`` (the store of ``allranks run``), ``mpi``
and ``mpi_worker`` (rank 0's address, by MPI), ``ports`` and ``bind_hook`` (firewalls), and
``init_method`` (URLs).
"""
