"""What a change of the model refuses is refused before the run begins."""

from __future__ import annotations

from dnntrain.protocols import BuildContext, ModelTransform


def validate_transform(transform: ModelTransform, context: BuildContext) -> ModelTransform:
    """`transform`, once it has been applied to a copy of the model that is not trained: its ConfigError comes at plan time."""
    if context.build_model is not None:
        transform.apply(context.build_model())
    return transform
