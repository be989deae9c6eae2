"""From somebody's ``dist_utils.py`` to what to write instead: read by its syntax tree, never run.

Data flows one way. ``reading`` makes facts of a source, with the words of ``marks``, ``arguments``
and ``attributes`` for what code does; ``recognise`` compares them with the rows. ``templates``
fills a row's body for one function, and ``patch`` makes a diff of such.

``project`` holds all files that were read, and finds what an import means. ``call_sites`` says what
to write where something is used: ``rewrite`` puts the arguments of a call into a row's body,
``left_attributes`` finds what was left on ``args``, ``new_imports`` mends the imports, and
``editing`` keeps the text with its changes. ``remains`` is what has to move.

``report`` says all of it, laid out by ``layout``; ``shown`` counts, and makes JSON and the page
docs/migrate.md. ``row`` is the form of a row, and ``rows`` the table, which ``rows_ranks``,
``rows_setup``, ``rows_data``, ``rows_sent`` and ``rows_classes`` hold: to know one more kind of
function, write a row. It uses torch nowhere.
"""
