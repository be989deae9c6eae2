"""Tests on several ranks: from the marker to the report.

Read ``marker``, ``session`` (the session's side: a template that has collected what the session
has), ``item`` (a rank's side), ``phases`` and ``report`` (from the ranks' reports to the item's).
``report_file`` carries reports, ``session_effects`` gives them to other plugins, ``output_limits``
bounds the output, ``hypothesis_examples`` and ``xdist_worker`` are for those two libraries.
"""
