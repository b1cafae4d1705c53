"""The sizes of a decoder in a config.json of transformers: GPT-2- and Llama-like networks.

The keys are those of `GPT2Config` and `LlamaConfig`. Their models are in transformers'
`models/gpt2/modeling_gpt2.py` and `models/llama/modeling_llama.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.nn.decoder import DecoderShape

#: Activations of transformers, by ours.
_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu2": "relu2"}


@dataclass(frozen=True)
class Family:
    """A family of networks: their `model_type`s, and the functions from a configuration to sizes and back.

    read   (configuration) → sizes; raises CheckpointError for a part that a decoder does not have
    write  (sizes) → configuration
    lacks  (sizes) → the settings that a network of this family would need
    """

    name: str
    architecture: str
    read: Callable[[Mapping[str, Any]], DecoderShape]
    write: Callable[[DecoderShape], dict[str, Any]]
    lacks: Callable[[DecoderShape], list[str]]


def read_sizes(config: Mapping[str, Any], path: object) -> tuple[Family, DecoderShape]:
    """Return the family and the sizes of a configuration.

    Raises CheckpointError, which names `path`, for another network, or one with parts that a decoder
    does not have.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        raise CheckpointError(
            f"{path} holds a network of model_type={kind}", f"choose one of {', '.join(FAMILIES)} and their like"
        )
    try:
        return family, family.read(config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the sizes are damaged: {error!r}", "copy the folder again") from None


def choose_family(shape: DecoderShape) -> Family:
    """Return the family that has networks like this one. Raises ConfigError, which says what each lacks."""
    families = [FAMILIES["llama"], FAMILIES["gpt2"]]
    for family in families:
        if not family.lacks(shape):
            return family
    needs = "; ".join(f"{family.name} needs {', '.join(family.lacks(shape))}" for family in families)
    raise ConfigError(f"no network of transformers computes what this one does: {needs}", "use --format pt2")


def _read_gpt2(config: Mapping[str, Any]) -> DecoderShape:
    names = {value: key for key, value in _ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}
    activation = config.get("activation_function", "gelu_new")
    _check(
        {
            "activation_function": activation in names,
            "scale_attn_weights": config.get("scale_attn_weights", True),
            "scale_attn_by_inverse_layer_idx": not config.get("scale_attn_by_inverse_layer_idx"),
            "add_cross_attention": not config.get("add_cross_attention"),
        },
        config,
    )
    width = int(config["n_embd"])
    return _make_shape(
        vocabulary=int(config["vocab_size"]),
        context=int(config["n_positions"]),
        width=width,
        depth=int(config["n_layer"]),
        heads=int(config["n_head"]),
        kv_heads=int(config["n_head"]),
        hidden=int(config.get("n_inner") or 4 * width),
        activation=names[activation],
        norm="layer",
        rope_base=0.0,
        bias=True,
        tied_head=bool(config.get("tie_word_embeddings", True)),
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
    )


def _write_gpt2(shape: DecoderShape) -> dict[str, Any]:
    return {
        "n_embd": shape.width,
        "n_layer": shape.depth,
        "n_head": shape.heads,
        "n_inner": shape.hidden,
        "n_positions": shape.context,
        "activation_function": _ACTIVATIONS[shape.activation],
        "layer_norm_epsilon": shape.norm_eps,
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": 0.0,
    }


def _find_lacks_of_gpt2(shape: DecoderShape) -> list[str]:
    return [
        setting
        for setting, fits in {
            "model.norm=layer": shape.norm == "layer",
            "model.positions=learned": not shape.rope_base,
            "model.mlp=gelu_tanh": shape.activation in _ACTIVATIONS,
            "model.num_kv_heads=null": shape.kv_heads == shape.heads,
            **_list_common(shape),
        }.items()
        if not fits
    ]


def _read_llama(config: Mapping[str, Any]) -> DecoderShape:
    width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    # Older files have rope_theta and rope_scaling, newer ones rope_parameters.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    attention_bias, mlp_bias = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    _check(
        {
            "hidden_act": config.get("hidden_act", "silu") == "silu",
            "rope_scaling": rope.get("rope_type", rope.get("type", "default")) == "default",
            "head_dim": (config.get("head_dim") or width // heads) * heads == width,
            "mlp_bias": attention_bias == mlp_bias,
            "sliding_window": not config.get("sliding_window"),
        },
        config,
    )
    return _make_shape(
        vocabulary=int(config["vocab_size"]),
        context=int(config["max_position_embeddings"]),
        width=width,
        depth=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        hidden=int(config["intermediate_size"]),
        activation="swiglu",
        norm="rms",
        rope_base=base,
        bias=attention_bias,
        tied_head=bool(config.get("tie_word_embeddings", False)),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
    )


def _write_llama(shape: DecoderShape) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.width // shape.heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_base},
        "hidden_act": "silu",
        "attention_bias": shape.bias,
        "mlp_bias": shape.bias,
        "attention_dropout": 0.0,
    }


def _find_lacks_of_llama(shape: DecoderShape) -> list[str]:
    return [
        setting
        for setting, fits in {
            "model.norm=rms": shape.norm == "rms",
            "model.positions=rope": bool(shape.rope_base),
            "model.mlp=swiglu": shape.activation == "swiglu",
            **_list_common(shape),
        }.items()
        if not fits
    ]


def _list_common(shape: DecoderShape) -> dict[str, bool]:
    """Return the settings that every network of transformers needs, and whether this one has them."""
    return {
        "task=language_model": shape.per_token,
        "model.qk_norm=false": not shape.qk_norm,
        "model.softcap=0": not shape.softcap,
        "model.parametrization=standard": shape.growth is None,
        "data.isolate_documents=false": shape.separator is None,
    }


def _make_shape(**sizes: Any) -> DecoderShape:
    outputs = sizes["vocabulary"]
    common: dict[str, Any] = {"qk_norm": False, "softcap": 0.0, "dropout": 0.0, "separator": None, "per_token": True}
    return DecoderShape(outputs=outputs, **sizes, **common)


def _check(conditions: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for the first setting whose condition fails."""
    for name, fits in conditions.items():
        if not fits:
            raise CheckpointError(
                f"model=hf does not support {name}={config.get(name)}",
                "choose another network of GPT-2's or Llama's kind",
            )


_GPT2 = Family("gpt2", "GPT2LMHeadModel", _read_gpt2, _write_gpt2, _find_lacks_of_gpt2)
_LLAMA = Family("llama", "LlamaForCausalLM", _read_llama, _write_llama, _find_lacks_of_llama)

#: The families by their `model_type`; without a sliding window Mistral's networks are Llama's.
FAMILIES = {"gpt2": _GPT2, "llama": _LLAMA, "mistral": _LLAMA}
