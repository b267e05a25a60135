"""Counting what a compiled program moves: on written text, and against XLA's own counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jslm.model.kernels.splash import splash_attention
from jslm.plan.flops import count_flops
from jslm.plan.hlo import count_traffic, trip_count
from jslm.plan.hlo_text import parse_hlo

# As libtpu writes it: tiled layouts, S(1) for on-chip memory, convolutions for matrix products.
TPU = """
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%condition (arg: (s32[], f32[64,32], f32[4,32,32])) -> pred[] {
  %limit = s32[]{:T(128)} constant(4)
  %arg.1 = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)}, f32[4,32,32]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%sliced (p0: f32[4,32,32], p1: s32[], p2: f32[64,32]) -> f32[64,32] {
  %p0 = f32[4,32,32]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[64,32]{1,0:T(8,128)} parameter(2)
  %zero = s32[] constant(0)
  %one = f32[1,32,32]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,32,32}
  %w = f32[32,32]{1,0} bitcast(%one)
  ROOT %product = f32[64,32]{1,0:T(8,128)} convolution(%p2, %w), dim_labels=bf_io->bf
}

%body (arg: (s32[], f32[64,32], f32[4,32,32])) -> (s32[], f32[64,32], f32[4,32,32]) {
  %arg = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)}, /*index=2*/f32[4,32,32]{2,1,0}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%arg), index=0
  %x = f32[64,32]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %ws = f32[4,32,32]{2,1,0} get-tuple-element(%arg), index=2
  %y = f32[64,32]{1,0:T(8,128)} fusion(%ws, %i.1, %x), kind=kOutput, calls=%sliced
  %z = f32[64,32]{1,0:T(8,128)S(1)} all-reduce(%y), replica_groups=mesh['data'=4,'fsdp'=2] {'data'}, to_apply=%add
  %step = s32[]{:T(128)S(6)} constant(1)
  %i.2 = s32[]{:T(128)S(6)} add(%i.1, %step)
  ROOT %next = (s32[]{:T(128)S(6)}, f32[64,32]{1,0:T(8,128)S(1)}, f32[4,32,32]{2,1,0}) tuple(%i.2, %z, %ws)
}

ENTRY %main (x0: f32[64,32], w0: f32[4,32,32]) -> f32[256,32] {
  %x0 = f32[64,32]{1,0:T(8,128)} parameter(0)
  %w0 = f32[4,32,32]{2,1,0} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %init = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)}, f32[4,32,32]{2,1,0}) tuple(%start, %x0, %w0)
  %loop = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)}, f32[4,32,32]{2,1,0}) while(%init), condition=%condition, body=%body
  %last = f32[64,32]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %all = f32[256,32]{1,0:T(8,128)} all-gather(%last), replica_groups=[2,4]<=[8], dimensions={0}
}
"""
X, W, WS = 64 * 32 * 4, 32 * 32 * 4, 4 * 32 * 32 * 4


def test_loops_count_as_often_as_they_run() -> None:
    traffic = count_traffic(parse_hlo(TPU))
    assert traffic.flops == 4 * 2 * 64 * 32 * 32
    assert traffic.operations == 4 * 3 + 1


def test_bodies_of_two_turns_run_half_as_often() -> None:
    # libtpu unrolls loops that hide communication behind products: the counter goes up by two.
    assert count_traffic(parse_hlo(TPU.replace("constant(1)", "constant(2)"))).flops == 2 * 2 * 64 * 32 * 32


def test_slices_and_on_chip_memory_are_not_whole_reads() -> None:
    # Each turn reads one matrix of the four, x, and nothing for the index on chip; the all-reduce writes on chip.
    turn = (W + X + X) + X
    assert count_traffic(parse_hlo(TPU)).bytes == 4 * turn + X + 4 * X


def test_collectives_by_kind_and_group() -> None:
    gather, reduce = sorted(count_traffic(parse_hlo(TPU)).collectives, key=lambda collective: collective.kind)
    assert (gather.kind, gather.group, gather.count, gather.payload_bytes) == ("all-gather", 4, 1, 4 * X)
    assert gather.wire_bytes == 4 * X * 3 / 4
    assert (reduce.kind, reduce.group, reduce.count, reduce.payload_bytes) == ("all-reduce", 4, 4, 4 * X)
    assert reduce.wire_bytes == 2 * 4 * X * 3 / 4


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[1,8]<=[8]", 8),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['data'=2,'fsdp'=4,'tensor'=1] {'data','fsdp'}", 8),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", 4),
    ],
)
def test_replica_groups(groups: str, size: int) -> None:
    text = TPU.replace("mesh['data'=4,'fsdp'=2] {'data'}", groups)
    found = {collective.kind: collective.group for collective in count_traffic(parse_hlo(text)).collectives}
    assert found["all-reduce"] == size


def test_reduce_scatter_fusion_of_tpus_is_no_all_reduce() -> None:
    text = TPU.replace("%z = f32[64,32]{1,0:T(8,128)S(1)} all-reduce(%y), ", "%unused = f32[64,32] negate(%y), ")
    text = text.replace("%sliced", "%all-reduce-scatter.1").replace(
        "ROOT %product", "%r = f32[64,32] all-reduce(%p2), replica_groups={{0,1}}, to_apply=%add\n  ROOT %product"
    )
    text = text.replace("tuple(%i.2, %z, %ws)", "tuple(%i.2, %unused, %ws)")
    kinds = {(c.kind, c.count, c.payload_bytes) for c in count_traffic(parse_hlo(text)).collectives}
    assert ("reduce-scatter", 4, 4 * X) in kinds


# As libtpu writes a kernel of Pallas: its metadata goes over lines that look like the end of a computation.
KERNEL = """
ENTRY %main (next: s8[1,2,2], q: bf16[3,8,1024,64], k: bf16[3,4,1024,64], v: bf16[3,4,1024,64]) -> bf16[3,8,1024,64] {
  %next = s8[1,2,2]{2,1,0} parameter(0)
  %q = bf16[3,8,1024,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[3,4,1024,64]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  %v = bf16[3,4,1024,64]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(3)
  %rows = s32[1024,128]{1,0:T(8,128)} iota(), iota_dimension=0
  %splash_mha_fwd.1 = (bf16[3,8,1024,64]{3,2,1,0}, f32[3,8,1024,128]{3,2,1,0}) custom-call(CALL, METADATA
  ROOT %out = bf16[3,8,1024,64]{3,2,1,0} get-tuple-element(%splash_mha_fwd.1), index=0, METADATA
}
""".replace("CALL", '%next, %q, %k, %v, %rows), custom_call_target="tpu_custom_call"').replace(
    "METADATA", 'frontend_attributes={kernel_metadata={\n"xprof_metadata":"{\\"block_q\\": 512}"\n}}'
)
ARRAY, ROWS = 3 * 1024 * 64 * 2, 1024 * 128 * 4


def test_kernels_read_blocks_as_often_as_they_walk_over_them() -> None:
    module = parse_hlo(KERNEL)
    assert list(module.computations["main"].instructions) == ["next", "q", "k", "v", "rows", "splash_mha_fwd.1", "out"]
    written = 8 * ARRAY + 8 * 3 * ROWS
    # Of two blocks of keys each head of queries reads the first one and, for its second block, the second one. Values
    # are on the chip here. The numbers of the rows are read for each head of each sequence.
    read = 4 + 8 * ARRAY + 2 * 4 * ARRAY + 3 * 8 * ROWS
    assert count_traffic(module).bytes == written + read
    product = 2 * 3 * 8 * 1024**2 * 64
    assert count_traffic(module).flops == 2 * product * 3 / 4
    # The gradients of keys and values: those once, queries for both blocks of keys where the mask leaves them.
    other = KERNEL.replace("splash_mha_fwd", "splash_mha_dkv")
    assert count_traffic(parse_hlo(other)).flops == 4 * product * 3 / 4
    assert count_traffic(parse_hlo(other)).bytes == written + 4 + 1.5 * 8 * ARRAY + 4 * ARRAY + 3 * ROWS


def test_kernels_of_one_sequence_have_no_axis_for_it() -> None:
    one = parse_hlo(KERNEL.replace("[3,", "["))
    assert count_traffic(one).flops == count_traffic(parse_hlo(KERNEL)).flops / 3
    assert count_traffic(one).bytes - 4 == (count_traffic(parse_hlo(KERNEL)).bytes - 4) / 3


def test_flops_of_splash_attention_are_those_of_the_blocks_under_the_mask() -> None:
    q, k = jax.ShapeDtypeStruct((2, 1024, 4, 16), jnp.float32), jax.ShapeDtypeStruct((2, 1024, 2, 16), jnp.float32)
    product = 2 * 2 * 4 * 1024**2 * 16

    def objective(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(splash_attention(q, k, v))

    assert count_flops(jax.jit(splash_attention).trace(q, k, k)) == 2 * product * 3 / 4
    # Two products forward; backward the scores and the weights' gradient twice, and one each for q, k and v. Outside
    # of the kernels, each row of the output times its gradient.
    rows = 2 * q.size
    assert count_flops(jax.jit(jax.grad(objective, (0, 1, 2))).trace(q, k, k)) == (2 + 7) * product * 3 / 4 + rows


def test_loop_of_unknown_length_counts_once_and_can_be_counted_alone() -> None:
    text = TPU.replace("constant(4)", "parameter(1)")
    module = parse_hlo(text)
    loop = next(i for i in module.computations[module.entry].instructions.values() if i.opcode == "while")
    assert trip_count(module, loop) is None
    assert count_traffic(module).flops == 2 * 64 * 32 * 32
    assert count_traffic(module, only_loop_of_unknown_length=True).bytes == W + 3 * X


def test_flops_against_the_trace_and_against_xla() -> None:
    def products(x: jax.Array, w: jax.Array) -> jax.Array:
        y = jax.lax.scan(lambda carry, _: (carry @ w, None), x, None, length=6)[0]
        return jnp.einsum("bd,de->eb", y, w)

    x, w = jnp.ones((96, 64)), jnp.ones((64, 64))
    traced = jax.jit(products).trace(x, w)
    compiled = traced.lower().compile()
    expected = 7 * 2 * 96 * 64 * 64
    assert count_flops(traced) == expected
    assert count_traffic(parse_hlo(compiled.as_text())).flops == expected
    # XLA counts the loop's body once, which is why this module exists.
    single = jax.jit(lambda x, w: (x @ w) @ w).trace(x, w).lower().compile()
    counted = count_traffic(parse_hlo(single.as_text()))
    costs = single.cost_analysis()
    assert counted.flops == pytest.approx(costs["flops"], rel=0.02)
    assert counted.bytes == pytest.approx(costs["bytes accessed"], rel=0.02)


def test_a_product_for_one_platform_counts_there_alone() -> None:
    def twice_on_cpus(x: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    traced = jax.jit(twice_on_cpus).trace(jnp.ones((8, 8)))
    assert [count_flops(traced, name) for name in ("cpu", "gpu", "tpu")] == [4 * 8**3, 2 * 8**3, 2 * 8**3]
