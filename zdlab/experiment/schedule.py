"""The order of trials: blocks of one trial of each arm, shuffled within the block. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

from zdlab.experiment.model import Slot


def schedule(arms: Sequence[str], blocks: int, seed: int) -> list[Slot]:
    """Return all trials in the order they are run.

    The same arms, blocks and seed give the same order; more blocks keep the first ones as they were.

    :param seed: decides the order and each block's seed, which its arms share, and which does not depend on the arms.
    """
    slots: list[Slot] = []
    for block in range(blocks):
        chance = random.Random(f"{seed}/{block}")  # noqa: S311 - a shuffle that can be repeated, not a secret
        block_seed = chance.randrange(1, 1 << 31)
        order = list(arms)
        chance.shuffle(order)
        for arm in order:
            slots.append(Slot(len(slots), block, arm, block_seed))
    return slots
