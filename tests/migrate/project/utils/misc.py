"""What this project's scripts share: ranks, meters, and a few helpers of its own."""

import builtins
import datetime
import os
import pickle
import time
from collections import defaultdict, deque

import torch
import torch.distributed as dist

CHUNK = 1024


class SmoothedValue:
    """The latest values of something, and the mean of all of them."""

    def __init__(self, window_size=20, fmt=None):
        self.deque = deque(maxlen=window_size)
        self.total, self.count = 0.0, 0
        self.fmt = fmt or "{median:.4f} ({global_avg:.4f})"

    def update(self, value, n=1):
        self.deque.append(value)
        self.count += n
        self.total += value * n

    def synchronize_between_processes(self):
        if not is_dist_avail_and_initialized():
            return
        both = torch.tensor([self.count, self.total], dtype=torch.float64)
        dist.barrier()
        dist.all_reduce(both)
        self.count, self.total = int(both[0]), both[1].item()

    @property
    def median(self):
        return torch.tensor(list(self.deque)).median().item()

    @property
    def global_avg(self):
        return self.total / self.count

    def __str__(self):
        return self.fmt.format(median=self.median, global_avg=self.global_avg)


class MetricLogger:
    """Meters by name, and a loop that shows them."""

    def __init__(self, delimiter="\t"):
        self.meters = defaultdict(SmoothedValue)
        self.delimiter = delimiter

    def update(self, **values):
        for name, value in values.items():
            self.meters[name].update(value.item() if isinstance(value, torch.Tensor) else value)

    def add_meter(self, name, meter):
        self.meters[name] = meter

    def synchronize_between_processes(self):
        for meter in self.meters.values():
            meter.synchronize_between_processes()

    def log_every(self, iterable, print_freq, header=""):
        begun = time.time()
        for step, item in enumerate(iterable):
            yield item
            if step % print_freq == 0:
                print(header, step, self)
        print(header, "took", datetime.timedelta(seconds=int(time.time() - begun)))

    def __str__(self):
        return self.delimiter.join(f"{name}: {meter}" for name, meter in self.meters.items())


def all_gather(data):
    """Every rank's data, whatever it is."""
    if get_world_size() == 1:
        return [data]
    mine = torch.frombuffer(bytearray(pickle.dumps(data)), dtype=torch.uint8)
    size = torch.tensor([mine.numel()])
    sizes = [torch.zeros_like(size) for _ in range(get_world_size())]
    dist.all_gather(sizes, size)
    longest = max(int(one) for one in sizes)
    padded = torch.cat([mine, torch.zeros(longest - mine.numel(), dtype=torch.uint8)])
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [pickle.loads(p[: int(s)].numpy().tobytes()) for p, s in zip(parts, sizes)]


def reduce_dict(input_dict, average=True):
    """The sum or the mean of each value over all ranks."""
    if get_world_size() < 2:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict.keys())
        values = torch.stack([input_dict[name] for name in names])
        dist.all_reduce(values)
        if average:
            values /= get_world_size()
        return dict(zip(names, values))


def setup_for_distributed(is_master):
    """Make print silent on all ranks but the first."""
    shown = builtins.print

    def print(*args, force=False, **how):
        if is_master or force:
            shown(*args, **how)

    builtins.print = print


def is_dist_avail_and_initialized():
    return dist.is_available() and dist.is_initialized()


def get_world_size():
    return dist.get_world_size() if is_dist_avail_and_initialized() else 1


def get_rank():
    return dist.get_rank() if is_dist_avail_and_initialized() else 0


def is_main_process():
    return get_rank() == 0


def save_on_master(*args, **kwargs):
    if is_main_process():
        torch.save(*args, **kwargs)


def init_distributed_mode(args):
    """Find out which rank this is, and meet the others."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        args.rank = int(os.environ["RANK"])
        args.world_size = int(os.environ["WORLD_SIZE"])
        args.gpu = int(os.environ["LOCAL_RANK"])
    else:
        print("Not using distributed mode")
        args.rank, args.world_size, args.gpu = 0, 1, 0
        args.distributed = False
        return
    args.distributed = True
    if torch.cuda.is_available():
        torch.cuda.set_device(args.gpu)
    args.dist_backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend=args.dist_backend,
        init_method=args.dist_url,
        world_size=args.world_size,
        rank=args.rank,
    )
    dist.barrier()
    setup_for_distributed(args.rank == 0)


class NestedTensor:
    """Tensors of several lengths, padded to one, with a mask of what is padding."""

    def __init__(self, tensors, mask):
        self.tensors = tensors
        self.mask = mask

    def to(self, device):
        return NestedTensor(self.tensors.to(device), self.mask.to(device))

    def decompose(self):
        return self.tensors, self.mask


def collate_fn(batch):
    rows, targets = zip(*batch)
    longest = max(len(row) for row in rows)
    padded = torch.zeros(len(rows), longest)
    mask = torch.ones(len(rows), longest, dtype=torch.bool)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
        mask[at, : len(row)] = False
    return NestedTensor(padded, mask), torch.stack(targets)


@torch.no_grad()
def accuracy(output, target):
    """How many of the signs are right, in percent."""
    return 100.0 * (output.sign() == target.sign()).float().mean()


def mean_accuracy(parts):
    """The mean of what the ranks have found."""
    return sum(parts) / get_world_size()
