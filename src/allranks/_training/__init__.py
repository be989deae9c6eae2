"""What a training script does with its ranks beside calling collectives.

Random numbers: ``seeds`` seeds all generators of a process, ``rng_state`` saves and restores them,
and ``streams`` keeps the streams apart. Data: ``shards`` says which samples are a rank's,
``shard_sampler`` feeds them to a DataLoader, and ``gather_shards`` puts results back in order, with
``sample_trees`` (data taken apart) and ``sample_places`` (where each rank's samples belong).
``arguments`` refuses what no call can take.
"""
