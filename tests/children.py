"""Runs of train.py in child processes, for the tests that kill one or need several of them.

The children come from one server that has imported PyTorch already, so that a life of a second is
not spent on starting. They train without pictures, which take half of the time of so small a run.
"""
import multiprocessing
import os
import random
import sys

import torch

import train

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["train"])


def draw_nothing(*_, **__):
    """In place of what draws pictures and pages."""


def run_command(argv):
    """In a child: train.py with these flags, without its pictures; it ends with the exit code."""
    torch.set_num_threads(1)
    train.write_results = draw_nothing
    train.write_report = draw_nothing
    train.draw_curves = draw_nothing
    sys.exit(train.main(argv))


def run_rank(rank, world, argv):
    """`run_command` as a job of `start_gloo`: the rank is told by the environment."""
    run_command(argv)


def be_rank(rank, world, port, job, *args):
    """In a child: `job` as rank `rank` of `world` processes."""
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    os.environ["LOCAL_RANK"] = str(rank)
    os.environ["WORLD_SIZE"] = str(world)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = str(port)
    job(rank, world, *args)


def start_gloo(world, job, *args):
    """Run `job(rank, world, *args)` in `world` processes; an AssertionError if one fails."""
    port = random.SystemRandom().randrange(20000, 60000)
    ranks = []
    for rank in range(world):
        ranks.append(SERVER.Process(target=be_rank, args=(rank, world, port, job, *args)))
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    codes = [process.exitcode for process in ranks]
    assert codes == [0] * world, f"exit codes of the ranks: {codes}"
