"""How the ranks of a group agree on a call, and how bytes move between them.

Read ``process_groups`` (who takes part), ``frame`` and ``headers`` (what is agreed on), then the
two ways on which frames travel: ``socket_channel``, over ``links`` of our own in a ``header_tree``
whose inner members pass on a ``bundle``, and ``gloo_channel``, the plain one. Data travel by
``group_operations``, or in ``bulk``, from memory to memory; ``tensor_bytes`` is how a tensor lies
in memory.
"""
