"""What ``allranks doctor`` does: look at a job before it runs, and say what would end it.

Facts come first, each in a file with the rows that follow from it: ``start``, ``network``,
``limits``, ``storage``, ``capacity``, ``versions``, ``gpus``; ``neighbours`` and ``routes`` take a
second rank. ``facts`` puts them together; ``checks`` is what a row is. Read ``examination`` for the
way of a rank: it meets the others, tells its facts on the ``board``, and makes the ``trial``.
``report`` is what is shown, ``command`` how it ends.
"""
