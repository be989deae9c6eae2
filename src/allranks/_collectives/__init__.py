"""What the user calls on data: reductions, gathers, broadcasts, and groups of ranks.

Read ``objects`` (any objects), ``tensors`` (tensors of any shape), ``broadcast`` and ``all_reduce``
(numbers, tensors and trees of them, by ``reduced_trees``), ``to_one_rank``, ``point_to_point`` and
``all_to_all``. They use ``arguments`` (what is asked for, in any spelling),
``pickling`` (objects as buffers), ``in_place`` (tensors that are written where they are),
``extremes`` (the least and greatest of floats), ``trees``, ``scalars``, ``exact_sums`` and ``flat``
(leaves in few messages). Gradients flow in ``differentiable``. Groups of ranks come of ``split``.
"""
