"""Losses, the share of the state that a device holds, and the bytes that travel as shares of the weights', on several
meshes, as JSON. Run by test_sharding.py in a process with 8 CPU devices."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jslm.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from jslm.learn.optimizer import make_optimizer
from jslm.learn.state import init_state
from jslm.learn.step import make_train_step
from jslm.parallel import make_mesh
from jslm.plan.hlo import count_traffic
from jslm.plan.hlo_text import parse_hlo
from jslm.train.setup import place_batch

STEPS, ROWS, LENGTH, VOCAB = 20, 16, 32, 500
MESHES = {
    "one": ((1, 1, 1), 1),
    "data": ((8, 1, 1), 1),
    "fsdp": ((1, 8, 1), 1),
    "tensor": ((1, 1, 8), 1),
    "mixed": ((2, 2, 2), 2),
    # Micro-batches whose gradients are summed over devices once a step, with dropout.
    "one, in parts": ((1, 1, 1), 2),
    "data, in parts": ((4, 1, 1), 2),
    "fsdp, in parts": ((1, 4, 1), 2),
    "both, in parts": ((2, 4, 1), 2),
}


def run(sizes: tuple[int, int, int], accumulation: int, optimizer_name: str, dropout: float) -> dict[str, object]:
    """Twenty steps of a small decoder; losses, and the share of the state's bytes that the first device holds."""
    data, fsdp, tensor = sizes
    config = Config(
        model=ModelConfig(
            n_layers=2,
            d_model=64,
            n_heads=16,
            n_kv_heads=8,
            context_length=LENGTH,
            vocab_size=VOCAB,
            dtype="float32",
            tie_embeddings=optimizer_name == "adamw",
            dropout=dropout,
        ),
        mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor),
        train=TrainConfig(steps=STEPS, batch_size=ROWS, micro_batch=ROWS // accumulation, loss_chunk=128),
        optimizer=OptimizerConfig(name=optimizer_name, learning_rate=3e-3, warmup_steps=2),  # type: ignore[arg-type]
    )
    tokens = np.random.default_rng(0).integers(0, VOCAB, (STEPS, ROWS, LENGTH + 1)).astype(np.int32)
    mesh = make_mesh(config.mesh, jax.devices()[: data * fsdp * tensor])
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(config.optimizer, STEPS)
        dtype = jnp.dtype(jnp.float32)
        state = init_state(config, optimizer, mesh, dtype)
        step = make_train_step(config, optimizer, STEPS, mesh, dtype)
        leaves = jax.tree.leaves(state)
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(state["params"]))
        losses: list[float] = []
        travelled: dict[str, float] = {}
        for rows in tokens:
            batch = place_batch({"inputs": rows[:, :-1], "targets": rows[:, 1:]}, mesh, accumulation)
            if accumulation > 1 and not losses:
                jitted: Any = step
                program = parse_hlo(jitted.lower(state, batch).compile().as_text())
                collectives = count_traffic(program).collectives
                for found in collectives:
                    travelled[found.kind] = travelled.get(found.kind, 0.0) + found.payload_bytes / weights
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    return {"losses": losses, "share": held / sum(leaf.nbytes for leaf in leaves), "travelled": travelled}


if __name__ == "__main__":
    json.dump(
        {
            name: run(sizes, accumulation, sys.argv[1], 0.1 if "parts" in name else 0.0)
            for name, (sizes, accumulation) in MESHES.items()
            if "parts" not in name or sys.argv[1] == "adamw"
        },
        sys.stdout,
    )
