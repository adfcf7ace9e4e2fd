"""Scaled dot-product attention on the GPU, one pass over keys and values (Dao et al., FlashAttention, 2022)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(q_ptr, k_ptr, v_ptr, N, M, scale, y_ptr, D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Compute softmax(scale q k) v for QUERIES rows of q `[heads, N, D]`; k `[heads, D, M]`, v `[heads, M, D]`.

    float32 is multiplied as three products of TF32, which keeps float32's precision on tensor cores.
    """
    tiles = tl.cdiv(N, QUERIES)
    head = (tl.program_id(0) // tiles).to(tl.int64)
    query = tl.program_id(0) % tiles * QUERIES + tl.arange(0, QUERIES)
    width = tl.arange(0, D)
    q_at = head * N * D + query.to(tl.int64)[:, None] * D + width[None, :]
    q = tl.load(q_ptr + q_at, mask=query[:, None] < N, other=0.0)
    # Powers of two are what the hardware has: e^x = 2^(x log2 e).
    exponent = scale.to(tl.float32, bitcast=True) * 1.4426950408889634
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    y = tl.zeros((QUERIES, D), tl.float32)
    for start in range(0, M, KEYS):
        key = start + tl.arange(0, KEYS)
        k_at = head * D * M + width.to(tl.int64)[:, None] * M + key[None, :]
        k = tl.load(k_ptr + k_at, mask=key[None, :] < M, other=0.0)
        v_at = head * M * D + key.to(tl.int64)[:, None] * D + width[None, :]
        v = tl.load(v_ptr + v_at, mask=key[:, None] < M, other=0.0)
        score = tl.dot(q, k, input_precision="tf32x3") * exponent
        score = tl.where(key[None, :] < M, score, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(score, 1))
        # A row of which all so far is -inf has no finite maximum to subtract; its weights so far are 0.
        base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weight = tl.math.exp2(score - base[:, None])
        decay = tl.math.exp2(highest - base)
        total = total * decay + tl.sum(weight, 1)
        y = tl.dot(weight.to(v.dtype), v, y * decay[:, None], input_precision="tf32x3")
        highest = new_highest
    y = y / total[:, None]
    tl.store(y_ptr + q_at, y.to(y_ptr.dtype.element_ty), mask=query[:, None] < N)
