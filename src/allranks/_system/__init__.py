"""What the operating system, the interpreter and torch's compiler tell or do; no process groups.

Everybody may enter; it uses nothing of the package but itself. Read ``waiting`` (calls that may be
left behind, deadlines) and ``processes`` first. Then, as you need them: ``sockets``,
``host_sockets``, ``descriptors``, ``stacks``, ``streams`` and ``words`` (what people see),
``printable`` and ``typed_json`` (what others wrote), ``variables`` (what a user may set),
``trusted_file`` and ``private_directory`` (files), ``accelerator``, ``graph_breaks``
(torch.compile), ``bounded_cache``, ``interpreter``, ``exit_threads``, ``cgroups`` (limits),
``cpus``, ``numa`` and ``blas_threads`` (where threads run, and how many), and what deals with
memory: ``host_memory``, ``peer_memory``, ``huge_pages``, ``elf``. ``version`` is this release's.
"""
