"""Meters for training loops, with the names and methods of DETR's ``util/misc.py``.

``from allranks.meters import MetricLogger, SmoothedValue`` is the only line that changes in a
script that has a copy of these classes. Importing this module imports no torch.
"""

from __future__ import annotations

from allranks._training.metric_logger import MetricLogger
from allranks._training.smoothed_value import SmoothedValue

__all__ = ["MetricLogger", "SmoothedValue"]
