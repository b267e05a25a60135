"""Losses and log-probabilities of hidden states, by the platform's kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jslm.model.kernels import Kernels
from jslm.model.kernels.chunked_loss import split_positions
from jslm.model.kernels.plain import IGNORED, cap_logits

__all__ = ["IGNORED", "cap_logits", "split_positions", "target_log_probs"]


def target_log_probs(
    logits: Float[Array, "batch length vocab"], targets: Int[Array, "batch length"], kernels: Kernels
) -> Float[Array, "batch length"]:
    """log softmax(logits) at each position's target; anything where the target is -1.

    The largest logit goes first: a difference to logsumexp loses the small losses of tokens that are nearly certain.
    """
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    rest = jnp.log(jnp.sum(jnp.exp(logits - top[..., None]), axis=-1))
    return (kernels.pick_logit(logits, targets) - top) - rest
