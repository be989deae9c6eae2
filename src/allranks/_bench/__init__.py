"""What ``allranks bench`` does: time the collectives and each pair of ranks, and show the figures.

It owns nothing that lasts. Read ``command`` first, which goes from one step to the next, and
``run``, which is a whole measurement. What is measured: ``plan`` (which sizes and calls),
``memory`` (which sizes fit), ``own_setting`` (where), ``cases`` (our call and torch's),
``bandwidth`` (what is told of a time), ``measure`` (both calls in turns), ``schedule`` and
``pairs`` (every rank to every other), with ``progress`` (how far it has come). What is told:
``results`` (the figures, as they are written), ``units`` (figures for people), ``table``,
``compare`` (with an earlier run), ``picture`` and its parts ``curves`` and ``heat_map``.
"""
