"""Combinations of regularisation methods with each other and with other settings that are refused, and what works instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from dnntrain.config.run import RunConfig


def regularisation_refusals(config: RunConfig, ranks: int) -> list[str]:
    """Every reason to refuse the chosen `reg` methods, each with its remedy on a second line."""
    return [f"{reason}\n  {fix}" for reason, fix in (*_cut_pairs(config, ranks), *_two_owners(config))]


def _cut_pairs(config: RunConfig, ranks: int) -> Iterator[tuple[str, str]]:
    """Methods that mix examples do so within pair blocks, which no layout may cut."""
    pairing = [f"reg.{name}" for name, method in config.reg.items() if getattr(method, "pairs", False)]
    if getattr(config.distill, "pairs", False):
        pairing.append("distill")
    if not pairing:
        return
    block, batch, micro = config.data.pair_block, config.train.batch_size, config.train.microbatch
    mixes = f"{' and '.join(pairing)} mixes examples within blocks of data.pair_block={block}"
    if block == 1:
        yield f"{mixes}, which leaves each alone", "use data.pair_block=8"
    elif ranks > 1 and batch < ranks * block:
        fix = f"train.batch_size={ranks * block} or more"
        smaller = f"data.pair_block={batch // ranks}, or " if batch // ranks > 1 else ""
        yield f"{mixes}, and {ranks} ranks cut them where train.batch_size={batch}", f"use {smaller}{fix}"
    elif micro is not None and micro < min(block, -(-batch // ranks)):
        smaller = f"data.pair_block={micro}, or " if micro > 1 else ""
        yield f"{mixes}, and train.microbatch={micro} cuts them", f"use {smaller}train.microbatch={block} or more"


def _two_owners(config: RunConfig) -> Iterator[tuple[str, str]]:
    """One knob has one owner."""
    reg = config.reg
    built_with = {field.name: field.default for field in fields(config.model)}
    if "dropout" in reg and getattr(config.model, "dropout", None) != built_with.get("dropout"):
        yield (
            f"model.dropout={config.model.dropout} and reg.dropout.rate={reg['dropout'].rate} both set the rate of dropout",
            "leave model.dropout out, or reg.dropout",
        )
