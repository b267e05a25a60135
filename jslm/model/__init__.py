"""The decoder: shapes, forward pass, cache and loss as functions of a parameter tree."""

from jslm.model.decoder import (
    Cache,
    Params,
    apply_cached,
    apply_decoder,
    decoding_params,
    init_cache,
    init_params,
    logits_from_hidden,
    loss_sums,
    param_axes,
    param_shapes,
    stack_conditions,
    unstack_layers,
)
from jslm.model.kernels import (
    FLASH_PREFIX,
    Kernels,
    choose_attention,
    choose_kernels,
    decoding_kernels,
    splash_block_length,
)
from jslm.model.kernels.plain import head_table
from jslm.model.log_probs import row_log_probs
from jslm.model.lora import init_adapters, merge_adapters
from jslm.model.loss import IGNORED
from jslm.model.shapes import compute_dtype, count_parameters, flops_per_token
from jslm.model.taught import taught_sums

__all__ = [
    "FLASH_PREFIX",
    "IGNORED",
    "Cache",
    "Kernels",
    "Params",
    "apply_cached",
    "apply_decoder",
    "choose_attention",
    "choose_kernels",
    "compute_dtype",
    "count_parameters",
    "decoding_kernels",
    "decoding_params",
    "flops_per_token",
    "head_table",
    "init_adapters",
    "init_cache",
    "init_params",
    "logits_from_hidden",
    "loss_sums",
    "merge_adapters",
    "param_axes",
    "param_shapes",
    "row_log_probs",
    "splash_block_length",
    "stack_conditions",
    "taught_sums",
    "unstack_layers",
]
