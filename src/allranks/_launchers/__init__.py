"""From the environment to a ``World``: who this process is. Pure, without torch.

Each launcher has a file (PMI and Hydra are both "mpich"), with its variables, its reader, why it
stands where it does in the order, what it would give a process in a test, and where its facts come
from. Read ``world``, then ``detect`` (the order), then one launcher, such as ``torchrun`` or
``slurm``, and ``fields``, which they share; ``reader`` is the form of such a file. ``nodes`` knows
platforms that number hosts, and not processes. ``hostlist``
reads Slurm's lists, ``job_ports`` chooses rank 0's ports; ``description`` is what ``allranks env``
shows; ``simulated`` and ``simulated_process`` make environments for tests.
"""
