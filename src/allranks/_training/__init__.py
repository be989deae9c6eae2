"""What a training script does with its ranks beside calling collectives.

``logs`` says which ranks speak, ``saving`` writes files whole or not at all, ``modules`` makes the
tensors of a module the same on all ranks, and ``check_same`` says whether data are, by their
``fingerprints``.

Random numbers: ``seeds`` seeds all generators of a process, ``rng_state`` saves and restores them,
and ``streams`` keeps the streams apart. Data: ``shards`` says which samples are a rank's,
``shard_sampler`` feeds them to a DataLoader, and ``gather_shards`` puts results back in order, with
``sample_trees`` (data taken apart) and ``sample_places`` (where each rank's samples belong).
``arguments`` refuses what no call can take.

Meters: ``smoothed_value`` (one) and ``metric_logger`` (many of them, and a loop that shows them),
with ``meter_sums`` (how meters of all ranks become one), ``loop_state`` (where a loop stands),
``loop_lines`` and ``loop_bar`` (how it is shown: line by line, or on a terminal).
"""
