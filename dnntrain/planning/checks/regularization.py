"""Combinations of regularisation methods with each other and with other settings that are refused, and what works instead."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields

from dnntrain.config.run_config import RunConfig
from dnntrain.utils.epochs import BatchSizeSchedule


def find_regularization_refusals(
    config: RunConfig, ranks: int, micro_batch_size: int, sizes: BatchSizeSchedule
) -> list[str]:
    """Every reason to refuse the chosen `reg` methods, each with its remedy on a second line. `micro_batch_size` is the planned one."""
    refusals = (
        *_find_cut_pairs(config, ranks, micro_batch_size, sizes),
        *_find_double_owners(config),
        *_find_repeat_conflicts(config),
    )
    return [f"{reason}\n  {fix}" for reason, fix in refusals]


def _find_cut_pairs(
    config: RunConfig, ranks: int, micro_batch_size: int, sizes: BatchSizeSchedule
) -> Iterator[tuple[str, str]]:
    """Methods that mix examples do so within pair blocks, which no layout may cut."""
    pairing_methods = [f"reg.{name}" for name, method in config.reg.items() if getattr(method, "pairs", False)]
    distill_relates = getattr(config.distill, "pairs", False)
    if distill_relates:
        pairing_methods.append("distill")
    if not pairing_methods:
        return
    block, batch = config.data.pair_block, sizes.smallest
    statement = f"{' and '.join(pairing_methods)} {'relates' if distill_relates else 'mixes'} examples within blocks of data.pair_block={block}"
    if block == 1:
        yield f"{statement}, which leaves each alone", "use data.pair_block=8"
    elif ranks > 1 and batch < ranks * block:
        fix = sizes.suggest_at_least(ranks * block)
        smaller_fix = f"use data.pair_block={batch // ranks}, or " if batch // ranks > 1 else ""
        yield f"{statement}, and {ranks} ranks cut them where {sizes.description}", f"{smaller_fix}{fix}"
    elif distill_relates and batch < block:
        smaller_fix = f"use data.pair_block={batch}, or " if batch > 1 else ""
        yield (
            f"{statement}, and {sizes.description} holds none: nothing would be related",
            f"{smaller_fix}{sizes.suggest_at_least(block)}",
        )
    elif micro_batch_size < min(block, -(-sizes.largest // ranks)):
        smaller_fix = f"data.pair_block={micro_batch_size}, or " if micro_batch_size > 1 else ""
        cause = "train.microbatch" if config.train.microbatch else "the pipeline's micro-batch"
        yield (
            f"{statement}, and {cause}={micro_batch_size} cuts them",
            f"use {smaller_fix}train.microbatch={block} or more",
        )


def _find_repeat_conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Copies of an example fill the batch evenly, and differ."""
    if "repeated_augment" not in config.reg:
        return
    copies, batch = config.reg["repeated_augment"].copies, config.train.batch_size
    if batch % copies:
        yield (
            f"reg.repeated_augment.copies={copies} does not divide train.batch_size={batch}",
            f"use train.batch_size={math.ceil(batch / copies) * copies}",
        )
    image_changes = [config.data.flip, config.data.crop_padding, getattr(config.data, "random_resized_crop", False)]
    method_changes = [
        getattr(method, "varies", False) or getattr(method, "pairs", False) for method in config.reg.values()
    ]
    if not any((*image_changes, *method_changes)):
        yield (
            f"reg.repeated_augment.copies={copies} repeats examples, and nothing that changes images makes the copies differ",
            "set data.flip=true or data.crop_padding=4, or add a method: reg=[repeated_augment,randaugment]",
        )


def _find_double_owners(config: RunConfig) -> Iterator[tuple[str, str]]:
    """One knob has one owner."""
    reg = config.reg
    model_defaults = {field.name: field.default for field in fields(config.model)}
    if "dropout" in reg and getattr(config.model, "dropout", None) != model_defaults.get("dropout"):
        yield (
            f"model.dropout={config.model.dropout} and reg.dropout.rate={reg['dropout'].rate} both set the rate of dropout",
            "leave model.dropout out, or reg.dropout",
        )
    if "grad_clip" in reg and config.train.clip_norm is not None:
        yield (
            f"train.clip_norm={config.train.clip_norm} and reg.grad_clip both bound the gradient",
            "use train.clip_norm=null",
        )
    decay = getattr(config.optim, "weight_decay", 0.0)
    if "weight_decay" in reg and decay:
        yield (
            f"optim.weight_decay={decay} and reg.weight_decay.rate={reg['weight_decay'].rate} both shrink the weights",
            "use optim.weight_decay=0",
        )
    if "randaugment" in reg and "trivial_augment" in reg:
        yield (
            "reg.randaugment and reg.trivial_augment both draw operations on each image, from the same list",
            "leave one of them out: reg=[trivial_augment]",
        )
    if "ema" in reg and "swa" in reg:
        yield "reg.ema and reg.swa both give the weights that are evaluated", "leave one of them out: reg=[ema]"
    if "swa" in reg and reg["swa"].batches and getattr(config.norm, "precise", 0):
        yield (
            f"norm.precise={config.norm.precise} and reg.swa.batches={reg['swa'].batches} both recompute the statistics of batch norm",
            "use norm.precise=0",
        )
    if "swa" in reg and config.data.val_fraction == 0 and not config.eval.test:
        yield (
            "reg.swa gives the weights that are evaluated, and nothing is",
            "set data.val_fraction=0.1 or eval.test=true",
        )
