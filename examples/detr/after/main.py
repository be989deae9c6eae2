"""Find the box in a picture: the script of ../before, on allranks."""

import argparse
import json
from pathlib import Path

import allranks
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)


def get_args_parser():
    parser = argparse.ArgumentParser("Find the box")
    parser.add_argument("--lr", default=3e-3, type=float)
    parser.add_argument("--batch_size", default=16, type=int)
    parser.add_argument("--epochs", default=4, type=int)
    parser.add_argument("--bbox_loss_coef", default=5, type=float)
    parser.add_argument("--output_dir", default="", help="where to save; empty for nowhere")
    parser.add_argument("--seed", default=42, type=int)
    return parser


def build_dataset(image_set):
    """Pictures of 12 x 12 pixels with a bright box in each: its class, and where it is."""
    draw = torch.Generator().manual_seed({"train": 0, "val": 1}[image_set])
    count = {"train": 512, "val": 128}[image_set]
    corners = torch.randint(0, 7, (count, 2), generator=draw)
    sizes = torch.randint(2, 6, (count, 2), generator=draw)
    images = 0.1 * torch.randn(count, 12, 12, generator=draw)
    for image, (x, y), (w, h) in zip(images, corners.tolist(), sizes.tolist()):
        image[y : y + h, x : x + w] += 1
    boxes = torch.cat([corners, sizes], dim=1) / 12
    return TensorDataset(images, (sizes[:, 0] > sizes[:, 1]).long(), boxes)


class BoxFinder(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU())
        self.class_embed = nn.Linear(64, 2)
        self.bbox_embed = nn.Linear(64, 4)

    def forward(self, images):
        features = self.backbone(images)
        return self.class_embed(features), self.bbox_embed(features).sigmoid()


def criterion(outputs, labels, boxes):
    logits, found = outputs
    return {"loss_ce": F.cross_entropy(logits, labels), "loss_bbox": F.l1_loss(found, boxes)}


def train_one_epoch(model, data_loader, optimizer, device, epoch, weight_dict):
    model.train()
    metric_logger = allranks.meters.MetricLogger(delimiter="  ")
    metric_logger.add_meter(
        "lr", allranks.meters.SmoothedValue(window_size=1, fmt="{global_avg:.6f}")
    )
    for batch in metric_logger.log_every(data_loader, 10, f"Epoch: [{epoch}]"):
        images, labels, boxes = (part.to(device) for part in batch)
        loss_dict = criterion(model(images), labels, boxes)
        losses = sum(loss_dict[k] * weight_dict[k] for k in loss_dict)
        with torch.no_grad():
            loss_dict_reduced = allranks.all_reduce(loss_dict, average=True)
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        metric_logger.update(**loss_dict_reduced)
        metric_logger.update(lr=optimizer.param_groups[0]["lr"])
    metric_logger.synchronize_between_processes()
    print("Averaged stats:", metric_logger)
    return {k: meter.global_avg for k, meter in metric_logger.meters.items()}


@torch.no_grad()
def evaluate(model, data_loader, device):
    model.eval()
    results = []
    for batch in data_loader:
        images, labels, boxes = (part.to(device) for part in batch)
        logits, found = model(images)
        right = (logits.argmax(1) == labels).tolist()
        results += zip(right, (found - boxes).abs().mean(1).tolist())
    results = [one for some in allranks.all_gather(results) for one in some]
    return {
        "right": sum(right for right, _ in results) / len(results),
        "error": sum(error for _, error in results) / len(results),
    }


def main(args):
    allranks.setup()
    allranks.print_on_master()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed + allranks.get_rank())

    model = BoxFinder().to(device)
    model_without_ddp = model
    if allranks.get_world_size() > 1:
        device_ids = (
            [torch.device(allranks.get_device_for_local_rank()).index]
            if device.type == "cuda"
            else None
        )
        model = DistributedDataParallel(model, device_ids=device_ids)
        model_without_ddp = model.module
    optimizer = torch.optim.AdamW(model_without_ddp.parameters(), lr=args.lr)

    dataset_train = build_dataset("train")
    dataset_val = build_dataset("val")
    if allranks.get_world_size() > 1:
        sampler_train = DistributedSampler(dataset_train)
        sampler_val = DistributedSampler(dataset_val, shuffle=False)
    else:
        sampler_train = RandomSampler(dataset_train)
        sampler_val = SequentialSampler(dataset_val)
    data_loader_train = DataLoader(dataset_train, args.batch_size, sampler=sampler_train)
    data_loader_val = DataLoader(dataset_val, args.batch_size, sampler=sampler_val)

    output_dir = Path(args.output_dir)
    weight_dict = {"loss_ce": 1, "loss_bbox": args.bbox_loss_coef}
    for epoch in range(args.epochs):
        if allranks.get_world_size() > 1:
            sampler_train.set_epoch(epoch)
        train_stats = train_one_epoch(
            model, data_loader_train, optimizer, device, epoch, weight_dict
        )
        test_stats = evaluate(model, data_loader_val, device)
        log_stats = {"epoch": epoch, **train_stats, **test_stats}
        print(log_stats)
        if args.output_dir:
            allranks.save(
                {"model": model_without_ddp.state_dict(), "epoch": epoch},
                output_dir / "checkpoint.pth",
            )
        if args.output_dir and allranks.is_master():
            with (output_dir / "log.txt").open("a") as file:
                file.write(json.dumps(log_stats) + "\n")


if __name__ == "__main__":
    main(get_args_parser().parse_args())
