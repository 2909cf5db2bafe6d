"""The order in which clips are seen, the same for any number of processes.

here          | what it is                                 | tests/test_train.py
GlobalBatches | a batch sampler: clips of each batch       | test_batches_of_ranks
"""
import numpy as np


class GlobalBatches:
    """The order in which clips are seen; a batch sampler for torch's DataLoader.

    Batch b of an epoch is order[b B : (b + 1) B], the order a function of (seed, epoch); rank r
    reads the r-th of `world` equal parts, so that any number of processes sees the same batches. A
    rest of clips that fills no batch is left out. `epoch` and `start`, the first batch, are set
    from outside. Yields lists of index + epoch * clips, a number that seeds the sample's crop.

    parts: into how many steps of accumulation a rank's share is cut; it must divide it.
    """

    def __init__(self, clips, batch, seed, rank=0, world=1, parts=1):
        wrong = batch < 1 or parts < 1 or batch > clips or batch % (world * parts) != 0
        if wrong:
            raise ValueError(f"--batch {batch}: {clips} clips, {world} processes x {parts} parts. "
                             f"Expected a multiple of {world * parts}, {clips} at most. Change it.")
        self.clips = clips
        self.batch = batch
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.start = 0

    def __len__(self):
        return self.clips // self.batch

    def __iter__(self):
        # Every process shuffles the whole list in the same way and takes its part of each batch.
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips)
        share = self.batch // self.world
        for b in range(self.start, len(self)):
            first = b * self.batch + self.rank * share
            mine = order[first:first + share]
            yield (mine + self.epoch * self.clips).tolist()
