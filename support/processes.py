"""Devices and processes: one CPU, one GPU, or many under torchrun, which all act as one.

The contrastive losses need all clips of a batch at once. So each process computes the features of
its own clips, `gather` gives everybody the features of all, and everybody computes the same loss.

here              | what it does                                   | tests/test_train.py
join_world        | this process's rank, its device                | test_two_processes
gather            | features of all processes, with gradients      | test_two_processes
average_gradients | the mean over processes                        | test_two_processes
reseed            | random numbers as a function of integers       | test_resume

rank: number of a process, 0 to world size - 1. B: clips of the global batch, b of one process.
"""
import os
import re
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist


class World(NamedTuple):
    """The place of this process among all."""
    rank: int                                     # 0 writes files and speaks
    size: int                                     # number of processes
    device: torch.device


def reseed(*numbers):
    """Seed torch from these integers alone, such as (seed, epoch, batch, rank, part).

    What is random in a step is thereby a function of the step: a run that is continued draws what
    the undisturbed one would have drawn, and no generator's state has to be stored.
    """
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def choose_device(name, local_rank=0):
    """`auto`, `cpu`, `cuda` or `cuda:N` -> torch.device; ValueError where it cannot be used.

    `cuda` without a number is the GPU of this process's place on its machine, `local_rank`.
    """
    wanted = name
    if name == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        wanted = f"cuda:{local_rank}"

    refusal = ValueError(f"--device {name[:80]} cannot be used here. Expected auto, cpu, cuda or "
                         f"cuda:N of {torch.cuda.device_count()} GPUs. Try auto.")
    if not re.fullmatch(r"cpu|cuda:\d{1,3}", wanted, re.ASCII):      # PyTorch has others: meta
        raise refusal
    try:
        device = torch.empty(0, device=wanted).device     # asks the driver, not only the name
    except (RuntimeError, AssertionError):
        raise refusal from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def join_world(device_name):
    """Find this process's place by the environment that torchrun sets; alone it is 0 of 1.

    device_name: as for `choose_device`. Processes on GPUs talk through NCCL, those on CPUs through
    gloo. torchrun ends all ranks as soon as one fails.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))

    device = choose_device(device_name, local_rank)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank, size, device)


def leave_world():
    """The end of `join_world`, for the last line of a command."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_grouped():
    """Whether this process has others to talk to."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank0_first(world, make):
    """make() on rank 0 and then on the others, since the first may write files (a download)."""
    if world.rank == 0:
        made = make()
    if world.size > 1:
        dist.barrier()
    if world.rank != 0:
        made = make()
    return made


class GatherRows(torch.autograd.Function):
    """Rows of all ranks in order of the ranks: (b, ...) -> (B, ...), B = world size * b.

    Backward: each rank computes the same loss L, so each holds the whole dL/drows of its own rows
    and needs no message. But gradients of weights are averaged over ranks afterwards, which is
    right for weights inside the loss (all ranks have the same) and divides the towers' gradients,
    of which each rank has only its clips' part, by the world size once too often. Hence the factor.
    """

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        own = grad.chunk(dist.get_world_size())[dist.get_rank()]
        return own * dist.get_world_size()


def gather(features):
    """Features of this process's clips -> features of the global batch.

    features: name -> tensor (b, ...). Alone, they are returned as they are. Booleans travel as
    bytes, which every backend can send.
    """
    if not is_grouped():
        return features
    gathered = {}
    for name, x in features.items():
        sent = x.to(torch.uint8) if x.dtype == torch.bool else x
        gathered[name] = GatherRows.apply(sent).to(x.dtype)
    return gathered


def average_gradients(groups):
    """Replace each gradient by its mean over ranks, with one message for each parameter group.

    groups: dicts with `params`, as an optimizer has them. One long message is faster than hundreds
    of short ones.
    """
    for group in groups:
        grads = [p.grad for p in group["params"] if p.grad is not None]
        if not grads:
            continue
        flat = torch.cat([g.flatten() for g in grads]) / dist.get_world_size()
        dist.all_reduce(flat)
        means = flat.split([g.numel() for g in grads])
        for g, mean in zip(grads, means):
            g.copy_(mean.view_as(g))
