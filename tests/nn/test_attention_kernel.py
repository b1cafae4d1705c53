"""The kernel of attention is named by the operator that runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dnntrain.choices.model.gpt import Gpt
from dnntrain.nn.attention_kernel import find_attention_kernel
from dnntrain.nn.shape import ModelShape


def test_a_gpt_on_a_cpu_uses_the_fused_kernel_or_the_one_that_is_forced() -> None:
    shape = ModelShape(20, 8, vocabulary=20, per_token=True)
    model = Gpt(embed_dim=16, depth=1, num_heads=2).build(shape).train()
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    assert find_attention_kernel(model, tokens, None) == "flash"
    assert model.training
    with sdpa_kernel(SDPBackend.MATH):
        assert find_attention_kernel(model, tokens, None) == "math"


def test_attention_that_is_written_out_is_math() -> None:
    class Plain(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return functional.softmax(tokens @ tokens.mT, -1) @ tokens

    assert find_attention_kernel(Plain(), torch.randn(1, 4, 4), torch.bfloat16) == "math"
