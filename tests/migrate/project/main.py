"""A small training script in the style of many: fit a line to rows of several lengths."""

import argparse
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

import utils.misc as utils
from engine import evaluate, train_one_epoch


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", default=3, type=int)
    parser.add_argument("--seed", default=7, type=int)
    parser.add_argument("--output_dir", default="", type=Path)
    parser.add_argument("--world_size", default=1, type=int)
    parser.add_argument("--dist_url", default="env://")
    return parser.parse_args()


def rows(count):
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        row = torch.randn(int(torch.randint(3, 7, (1,), generator=draw)), generator=draw)
        yield torch.cat([row, torch.zeros(6 - len(row))]), row.sum()


def main(args):
    utils.init_distributed_mode(args)
    print(f"rank {args.rank} of {args.world_size}")
    torch.manual_seed(args.seed + utils.get_rank())

    device = torch.device(f"cuda:{args.gpu}" if torch.cuda.is_available() else "cpu")
    model = torch.nn.Linear(6, 1).to(device)
    if args.distributed:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    data = list(rows(96))
    if args.distributed:
        sampler = DistributedSampler(data, args.world_size, args.rank)
    else:
        sampler = SequentialSampler(data)
    loader = DataLoader(data, 8, sampler=sampler, collate_fn=utils.collate_fn)

    for epoch in range(args.epochs):
        stats = train_one_epoch(model, loader, optimizer, device, epoch, args)
        right = evaluate(model, loader, device)
        told = "  ".join(f"{name} {value:.5f}" for name, value in sorted(stats.items()))
        print(f"RESULT {epoch} of {utils.get_world_size()}: {told}  right {right:.2f}")
        utils.save_on_master(
            {
                "model": model.state_dict(),
                "epoch": epoch,
            },
            args.output_dir / "checkpoint.pth",
        )
    if utils.is_main_process():
        print("RESULT saved", (args.output_dir / "checkpoint.pth").exists())


if __name__ == "__main__":
    main(get_args())
