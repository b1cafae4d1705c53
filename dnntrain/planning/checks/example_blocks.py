"""Check that blocks of examples that methods mix or relate are not split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dnntrain.config.run_config import LightConfig
from dnntrain.protocols import Refusal
from dnntrain.utils.epochs import BatchSizeSchedule


def find_block_refusals(
    config: LightConfig, relations: Mapping[str, str], ranks: int, micro_batch_size: int, sizes: BatchSizeSchedule
) -> Iterator[Refusal]:
    """Find reasons why blocks of `data.mix_block_size` are split.

    There are none unless a chosen method needs the blocks: `relations` holds its
    `example_relation` by its setting. `micro_batch_size` is the planned size.
    """
    if not relations:
        return
    relates = "relates" in relations.values()
    block, batch = config.data.mix_block_size, sizes.smallest
    relation = "relates" if relates else "mixes"
    statement = f"{' and '.join(relations)} {relation} examples within blocks of data.mix_block_size={block}"
    if block == 1:
        yield Refusal(f"{statement}, which must be at least 2", "use data.mix_block_size=8")
    elif ranks > 1 and batch < ranks * block:
        smaller_fix = f"use data.mix_block_size={batch // ranks}, or " if batch // ranks > 1 else ""
        yield Refusal(
            f"{statement}, but {ranks} ranks split the blocks of {sizes.description}",
            f"{smaller_fix}{sizes.suggest_at_least(ranks * block)}",
        )
    elif relates and batch < block:
        smaller_fix = f"use data.mix_block_size={batch}, or " if batch > 1 else ""
        yield Refusal(
            f"{statement}, but {sizes.description} is smaller than a block",
            f"{smaller_fix}{sizes.suggest_at_least(block)}",
        )
    elif micro_batch_size < min(block, -(-sizes.largest // ranks)):
        smaller_fix = f"data.mix_block_size={micro_batch_size}, or " if micro_batch_size > 1 else ""
        cause = "train.micro_batch_size" if config.train.micro_batch_size else "the pipeline's micro-batch"
        yield Refusal(
            f"{statement}, but {cause}={micro_batch_size} splits them",
            f"use {smaller_fix}train.micro_batch_size={block} or more",
        )
