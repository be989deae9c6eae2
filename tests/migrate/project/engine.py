"""One epoch of training, and the test after it."""

import torch

import utils.misc as utils
from utils.misc import all_gather, is_main_process


def train_one_epoch(model, loader, optimizer, device, epoch, args):
    logger = utils.MetricLogger(delimiter="  ")
    logger.add_meter("lr", utils.SmoothedValue(window_size=1, fmt="{global_avg:.3f}"))
    for samples, targets in logger.log_every(loader, 10, f"Epoch {epoch}:"):
        tensors, mask = samples.to(device).decompose()
        output = model(tensors.masked_fill(mask, 0.0)).squeeze(1)
        losses = {"error": ((output - targets) ** 2).mean(), "size": 0.01 * output.abs().mean()}
        reduced = utils.reduce_dict(losses)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        logger.update(loss=sum(reduced.values()), **reduced)
        logger.update(lr=optimizer.param_groups[0]["lr"])
    logger.synchronize_between_processes()
    if args.distributed and not is_main_process():
        assert args.rank > 0
    return {name: meter.global_avg for name, meter in logger.meters.items()}


@torch.no_grad()
def evaluate(model, loader, device):
    outputs, goals = [], []
    for samples, targets in loader:
        tensors, mask = samples.to(device).decompose()
        outputs.append(model(tensors.masked_fill(mask, 0.0)).squeeze(1))
        goals.append(targets)
    mine = utils.accuracy(torch.cat(outputs), torch.cat(goals)).item()
    return utils.mean_accuracy(all_gather(mine))
