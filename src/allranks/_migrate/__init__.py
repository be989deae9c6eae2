"""From somebody's ``dist_utils.py`` to what to write instead: read by its syntax tree, never run.

Data flows one way. ``reading`` makes facts of a source, with the words of ``marks`` and
``arguments`` for what code does; ``recognise`` compares them with the rows; ``patch`` makes a diff
of what is recognised, and ``shown`` a table, JSON, or the page docs/migrate.md. ``row`` is the form
of a row, and ``rows`` the table, which ``rows_ranks``, ``rows_setup``, ``rows_data``, ``rows_sent``
and ``rows_classes`` hold: to know one more kind of function, write a row. It uses torch nowhere.
"""
