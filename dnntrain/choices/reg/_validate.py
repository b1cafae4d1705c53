"""What a change of the model refuses is refused before the run begins."""

from __future__ import annotations

from dnntrain.protocols import Context, ModelTransform


def tried(transform: ModelTransform, context: Context) -> ModelTransform:
    """`transform`, once it has been applied to a copy of the model that is not trained: its ConfigError comes at plan time."""
    if context.student is not None:
        transform.apply(context.student())
    return transform
