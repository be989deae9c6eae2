"""From the environment to a ``World``: who this process is. Pure, without torch or the network.

Each launcher has one file, with its variables, its reader, why it stands where it does in the
order, what it would give a process in a test, and where its facts come from. Read ``world``, then
``detect`` (the order), then one launcher, such as ``torchrun`` or ``slurm``, and ``fields``, which
they share. ``simulated`` makes environments for tests.
"""
