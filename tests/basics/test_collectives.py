"""Collectives of compiled programs, read from texts that XLA wrote (shortened), against closed forms."""

import pytest

from dmtl_jax.basics import collectives
from dmtl_jax.basics.collectives import Exchange

# libtpu for 2 x 4 chips of a v5e: a scan over 6 layers of [1024, 512] weights in bfloat16, which 4 devices share.
TPU = """HloModule jit_f, is_scheduled=true

%add.clone (x: bf16[], y: bf16[]) -> bf16[] {
  ROOT %add.1 = bf16[]{:T(256)} add(%x, %y)
}

%cond (wide.param.1: (s32[], bf16[8,32,1024])) -> pred[] {
  %constant.65.clone.1 = s32[]{:T(128)} constant(6)
  ROOT %lt.7 = pred[]{:T(512)} compare(%get-tuple-element.130, %constant.65.clone.1), direction=LT
}

%all-reduce-scatter.clone.1 (input.2: bf16[1024,512]) -> bf16[256,512] {
  %input.2 = bf16[1024,512]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.11 = bf16[1024,512]{1,0:T(8,128)(2,1)} all-reduce(%input.2), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add.clone
  ROOT %dynamic-slice.28 = bf16[256,512]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.11, %multiply.18, %constant.159), dynamic_slice_sizes={256,512}
}

%body (wide.param.3: (s32[], bf16[8,32,1024])) -> (s32[], bf16[8,32,1024]) {
  %all-gather.11 = bf16[1,1024,512]{2,1,0:T(8,128)(2,1)} all-gather(%fusion.2), channel_id=11, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={1}, frontend_attributes={async_collective_name="all-gather-start.1"}
  %fusion.27 = bf16[256,512]{1,0:T(8,128)(2,1)} fusion(%convolution_bitcast_fusion.2), kind=kCustom, calls=%all-reduce-scatter.clone.1
  %all-reduce.13 = bf16[1,256,512]{2,1,0:T(8,128)(2,1)} all-reduce(%bitcast.46), channel_id=8, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}, to_apply=%add.clone
  %fused = bf16[512]{0:T(512)(128)(2,1)} fusion(%all-reduce.13), kind=kLoop, calls=%add.clone
}

ENTRY %main (a: f32[6,256,512], b: f32[8,32,1024]) -> (f32[6,256,512], f32[]) {
  %while.32 = (s32[]{:T(128)}, bf16[8,32,1024]{2,1,0:T(8,128)(2,1)}) while(%tuple.42), condition=%cond, body=%body
  ROOT %all-reduce.4 = (f32[]{:T(128)}, /*index=1*/f32[512]{0:T(512)}) all-reduce(%x, %y), channel_id=9, replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=1] {'axis_0','axis_1','axis_2'}, to_apply=%add.clone
}
"""


def test_loops_groups_and_fusions_of_a_tpu_program():
  weights = 1024 * 512 * 2
  assert collectives.find(TPU, 8) == {
    'all-gather': Exchange(6, 6 * 3 / 4 * weights),
    'reduce-scatter': Exchange(6, 6 * 3 / 4 * weights),
    'all-reduce': Exchange(7, 6 * 2 * 1 / 2 * weights / 4 + 2 * 7 / 8 * (1 + 512) * 4),
  }


@pytest.mark.parametrize(
  'instruction, expected',
  [
    ('f32[10]{0} all-reduce(%x), replica_groups={}', {'all-reduce': Exchange(1, 2 * 7 / 8 * 40)}),
    ('f32[10]{0} all-reduce-start(%x), replica_groups=[2,4]<=[8]', {'all-reduce': Exchange(1, 2 * 3 / 4 * 40)}),
    ('f32[10]{0} all-reduce-done(%x)', {}),
    ('f32[10]{0} all-reduce(%x), replica_groups={{0},{1},{2},{3}}', {}),
    ('f32[10]{0} reduce-scatter(%x), replica_groups=[4,2]<=[8]', {'reduce-scatter': Exchange(1, 40)}),
    ('s8[8,4]{1,0} all-to-all(%x), replica_groups=[2,4]<=[2,4]T(1,0)', {'all-to-all': Exchange(1, 3 / 4 * 32)}),
    ('pred[6]{0} collective-permute(%x), source_target_pairs={{0,1}}', {'collective-permute': Exchange(1, 6)}),
    (
      '(f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={{0,1,2,3},{4,5,6,7}}',
      {'all-gather': Exchange(1, 3 / 4 * 32)},
    ),
    (
      '(f32[2]{0}, f32[2]{0}) collective-permute-start(%x), source_target_pairs={{0,1}}',
      {'collective-permute': Exchange(1, 8)},
    ),
  ],
)
def test_one_collective(instruction, expected):
  assert collectives.find(f'ENTRY %main (x: f32[]) -> f32[] {{\n  %y = {instruction}\n}}', 8) == expected


def test_a_loop_whose_trip_count_xla_states():
  text = """%body (x: f32[4]) -> f32[4] {
  ROOT %y = f32[4]{0} all-reduce(%x), replica_groups=[1,2]<=[2]
}
ENTRY %main (x: f32[4]) -> f32[4] {
  ROOT %z = f32[4]{0} while(%x), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""
  assert collectives.find(text, 2) == {'all-reduce': Exchange(5, 5 * 16)}
