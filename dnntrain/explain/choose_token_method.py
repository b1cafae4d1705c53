"""Choose the method that attributes an answer to the tokens of a text."""

from __future__ import annotations

from dnntrain.errors import ConfigError
from dnntrain.explain.subject import Subject, limit_split, read_inputs
from dnntrain.explain.token_gradients import TokenGradients, count_tokens, find_token_embedding, find_visible
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.utils.rng import Key

#: Texts whose tokens are counted for the mean embedding.
_COUNTED = 500


def choose_token_method(name: str, subject: Subject, split: DataSplit, key: Key) -> TokenGradients:
    """Return the method `name`; auto: integrated gradients.

    Tokens are counted in texts of `split`. Raises ConfigError if the method is for images, or if the
    network has no embedding of tokens.
    """
    if name not in ("auto", "integrated_gradients", "gradient"):
        raise ConfigError(
            f"--method {name} makes maps of images; the model reads texts",
            "use --method integrated_gradients, or gradient",
        )
    counted = limit_split(split, key.with_stream("explain.tokens"), _COUNTED)
    inputs, spec = read_inputs(subject, counted, counted.index).inputs, subject.loaded.spec.inputs
    layer = find_token_embedding(subject.model, inputs[:1])
    if layer is None:
        raise ConfigError(
            "explain supports networks with torch.nn.Embedding for the tokens, and this network has none",
            "evaluate it with: dnntrain eval RUN",
        )
    assert spec.vocabulary is not None
    separator = spec.vocabulary.separator if spec.isolates_documents else None
    visible = find_visible(inputs, separator)
    return TokenGradients(
        layer=layer,
        frequencies=count_tokens(inputs, visible, spec.vocabulary.size),
        length=spec.shape[0],
        separator=separator,
        name="gradient" if name == "gradient" else "integrated_gradients",
    )
