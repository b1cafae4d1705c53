"""Apply model transforms to a temporary model, so that errors appear at plan time."""

from __future__ import annotations

from dnntrain.protocols import BuildContext, ModelTransform


def validate_transform(transform: ModelTransform, context: BuildContext) -> ModelTransform:
    """Apply `transform` to a temporary copy of the model, and return it.

    A ConfigError of the transform is thus raised at plan time.
    """
    if context.build_model is not None:
        transform.apply(context.build_model())
    return transform
