"""The sweeps of `grouped_gemm` and `layer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..problem import Problem, Tier
from ._experts_problem import MoEGroupedGEMM
from ._layer_problem import MoELayer

FP8 = ("float8_e4m3fn", "float8_e4m3fnuz")

_MIXTRAL: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14336, "num_experts": 8, "top_k": 2}
_QWEN3_235B: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 1536, "num_experts": 128, "top_k": 8}
_QWEN3_30B: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 768, "num_experts": 128, "top_k": 8}
_GPT_OSS: dict[str, Any] = {"hidden_size": 2880, "intermediate_size": 2880, "num_experts": 128, "top_k": 4}
_DEEPSEEK: dict[str, Any] = {"hidden_size": 7168, "intermediate_size": 2048, "num_experts": 256, "top_k": 8}
_KIMI: dict[str, Any] = {"hidden_size": 7168, "intermediate_size": 2048, "num_experts": 384, "top_k": 8}

_TOKENS = (1, 16, 128, 2048)

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (
        MoEGroupedGEMM(tokens=32, hidden_size=256, intermediate_size=192, num_experts=16, top_k=4),
        MoELayer(tokens=32, hidden_size=256, intermediate_size=192, num_experts=16, top_k=4, routing="skewed"),
    ),
    Tier.CI: (
        MoEGroupedGEMM(tokens=2048, **_QWEN3_235B),
        MoELayer(tokens=1, **_MIXTRAL),
        MoELayer(tokens=2048, **_MIXTRAL, router="softmax"),
        MoELayer(tokens=16, **_QWEN3_235B),
        # A quarter of DeepSeek-V3's experts, and the shared one: 5.7 of 22.6 GB in bf16. All of them in fp8: 11.3 GB.
        MoELayer(tokens=128, **_DEEPSEEK, num_local_experts=64, shared_experts=1),
        MoELayer(tokens=128, **_DEEPSEEK, router="deepseek", weight_dtype="float8_e4m3fn"),
    ),
    Tier.FULL: (
        *(MoELayer(tokens=t, **model) for model in (_MIXTRAL, _QWEN3_235B, _DEEPSEEK) for t in _TOKENS),
        *(
            MoELayer(tokens=t, **model, router=router)
            for model, router in ((_MIXTRAL, "softmax"), (_QWEN3_235B, "softmax"), (_DEEPSEEK, "deepseek"))
            for t in _TOKENS
        ),
        *(MoELayer(tokens=t, **model) for model in (_QWEN3_30B, _GPT_OSS) for t in (*_TOKENS, 16384)),
        *(MoELayer(tokens=t, **_KIMI, weight_dtype=FP8[0]) for t in _TOKENS),
        *(MoELayer(tokens=t, **_KIMI, num_local_experts=48) for t in (128, 2048)),
        *(MoELayer(tokens=t, **_DEEPSEEK, shared_experts=1, weight_dtype=fp8) for t in _TOKENS for fp8 in FP8),
        *(
            MoELayer(tokens=t, **model, routing=routing)
            for model in (_MIXTRAL, _QWEN3_235B)
            for t in (128, 2048)
            for routing in ("balanced", "skewed", "empties")
        ),
        *(MoELayer(tokens=t, **_QWEN3_30B) for t in (4096, 65536, 163840)),
        *(MoEGroupedGEMM(tokens=t, **model) for model in (_MIXTRAL, _QWEN3_30B, _QWEN3_235B) for t in (16, 2048)),
        *(
            MoEGroupedGEMM(tokens=2048, **model, routing=routing)
            for model in (_MIXTRAL, _QWEN3_235B)
            for routing in ("balanced", "skewed", "empties")
        ),
        *(MoEGroupedGEMM(tokens=t, **_DEEPSEEK, weight_dtype=fp8) for t in (128, 2048) for fp8 in FP8),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    MoELayer(tokens=1, hidden_size=72, intermediate_size=40, num_experts=5, top_k=3, router="softmax"),
    MoELayer(
        tokens=21, hidden_size=128, intermediate_size=96, num_experts=12, top_k=3, routing="empties",
        num_local_experts=5, shared_experts=1, dtype="float16", weight_dtype="float16",
    ),
    *(
        MoELayer(tokens=9, hidden_size=256, intermediate_size=128, num_experts=16, top_k=4, router="deepseek",
                 weight_dtype=fp8)
        for fp8 in FP8
    ),
    MoEGroupedGEMM(tokens=70, hidden_size=128, intermediate_size=128, num_experts=6, top_k=2, routing="skewed",
                   weight_dtype=FP8[0]),
)  # fmt: skip
