"""What a training script does with its ranks beside calling collectives.

Read ``smoothed_value`` (one meter) and ``metric_logger`` (many of them, and a loop that shows
them). They use ``meter_sums`` (how meters of all ranks become one), ``loop_state`` (where a loop
stands), ``loop_lines`` and ``loop_bar`` (how it is shown: line by line, or on a terminal).
"""
