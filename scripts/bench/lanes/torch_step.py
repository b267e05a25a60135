"""A GPT-2 in PyTorch as people write it for speed: SDPA, compiled, autocast, fused AdamW, a padded vocabulary."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.bench.lanes.torch_model import (
    DEVICE,
    autocast,
    check_compiler,
    device_memory,
    synchronize,
    torch_facts,
)

# Matrix units like whole tiles: 50,257 becomes 50,304.
_VOCABULARY_MULTIPLE = 64


class Block(nn.Module):
    """Attention, then a feed-forward layer with tanh GELU, both behind a LayerNorm; biases everywhere."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [batch, length, width]."""
        batch, length, width = x.shape
        parts = self.qkv(self.attention_norm(x)).split(width, dim=-1)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(x.shape)), dropout)
        return x + F.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh")), dropout)


class Gpt2(nn.Module):
    """Learned positions, tied head."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        width, self.dropout = shape["d_model"], shape.get("dropout", 0.0)
        rows = -(-shape["vocab_size"] // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
        self.tokens, self.positions = nn.Embedding(rows, width), nn.Embedding(shape["context_length"], width)
        self.blocks = nn.ModuleList(Block(width, shape["n_heads"], self.dropout) for _ in range(shape["n_layers"]))
        self.norm = nn.LayerNorm(width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean loss in nats; both [batch, length]."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        x = F.dropout(x, self.dropout if self.training else 0.0)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


class StepLane:
    """Whole optimizer steps with clipping, on random tokens."""

    def __init__(self, spec: dict[str, Any]) -> None:
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        if spec["compile"]:
            check_compiler()
        shape = spec["model"]
        self.model: Any = Gpt2(shape).to(DEVICE)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.loss: Any = torch.compile(self.model) if spec["compile"] else self.model
        ids = torch.randint(shape["vocab_size"], (spec["batch"], shape["context_length"] + 1), device=DEVICE)
        self.inputs, self.targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        self.facts = {**torch_facts(), "dtype": "bfloat16"}
        for _ in range(3):
            self.turn("", 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Steps; the unit is a token."""
        steps, started = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - started < seconds:
            with autocast("bfloat16"):
                loss = self.loss(self.inputs, self.targets)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            steps += 1
            # Else the time is up before the device has begun.
            if steps % 4 == 0:
                synchronize()
        synchronize()
        elapsed = time.perf_counter() - started
        self.facts["device_memory_bytes"] = device_memory()
        return steps * self.inputs.numel(), elapsed


def open_lane(spec: dict[str, Any]) -> StepLane:
    """`spec`: model (vocab_size, context_length, n_layers, d_model, n_heads, dropout), batch in rows, compile."""
    return StepLane(spec)
