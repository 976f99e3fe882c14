"""Memory traffic of compiled programs, read from texts that XLA wrote (shortened) and from its programs for CPUs."""

import jax
import jax.numpy as jnp
import pytest

from dmtl_jax.basics import traffic

MAP = 4 * 8 * 128
# In the manner of libtpu for a v5e: a loop of three passes that takes one row of %table, adds it to the carry on the
# chip, and stores the sum in place in %rows.
LOOP = """HloModule jit_f, is_scheduled=true

%fused_add (p.0: f32[8,128], p.1: f32[3,8,128], p.2: s32[]) -> f32[8,128] {
  %p.0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %p.1 = f32[3,8,128]{2,1,0:T(8,128)} parameter(1)
  %p.2 = s32[]{:T(128)} parameter(2)
  %row = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p.1, %p.2, %zero, %zero), dynamic_slice_sizes={1,8,128}
  %bitcast.1 = f32[8,128]{1,0:T(8,128)} bitcast(%row)
  ROOT %sum = f32[8,128]{1,0:T(8,128)} add(%p.0, %bitcast.1)
}

%fused_store (p.3: f32[3,8,128], p.4: f32[8,128], p.5: s32[]) -> f32[3,8,128] {
  %p.3 = f32[3,8,128]{2,1,0:T(8,128)} parameter(0)
  %p.4 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %p.5 = s32[]{:T(128)} parameter(2)
  %bitcast.2 = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%p.4)
  ROOT %stored = f32[3,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%p.3, %bitcast.2, %p.5, %zero, %zero)
}

%body (state: (s32[], f32[8,128], f32[3,8,128], f32[3,8,128])) -> (s32[], f32[8,128], f32[3,8,128], f32[3,8,128]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, f32[3,8,128]{2,1,0:T(8,128)}, f32[3,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %carry = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%state), index=1
  %table = f32[3,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %rows = f32[3,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=3
  %add_fusion = f32[8,128]{1,0:T(8,128)S(1)} fusion(%carry, %table, %i), kind=kLoop, calls=%fused_add
  %store_fusion = f32[3,8,128]{2,1,0:T(8,128)} fusion(%rows, %add_fusion, %i), kind=kLoop, calls=%fused_store
  ROOT %next = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, f32[3,8,128]{2,1,0:T(8,128)}, f32[3,8,128]{2,1,0:T(8,128)}) tuple(%i, %add_fusion, %table, %store_fusion)
}

%condition (state: (s32[], f32[8,128], f32[3,8,128], f32[3,8,128])) -> pred[] {
  %bound = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%j, %bound), direction=LT
}

ENTRY %main (a: f32[3,8,128]) -> f32[3,8,128] {
  %a = f32[3,8,128]{2,1,0:T(8,128)} parameter(0)
  %while.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, f32[3,8,128]{2,1,0:T(8,128)}, f32[3,8,128]{2,1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  ROOT %result = f32[3,8,128]{2,1,0:T(8,128)} get-tuple-element(%while.1), index=3
}
"""


def test_a_loop_with_slices_and_arrays_on_the_chip():
  """Each pass reads a row and writes one."""
  assert traffic.count(LOOP) == 3 * (MAP + MAP)


def program(*lines: str) -> str:
  """A program of arrays a and b [8, 128]."""
  parameters = ['%a = f32[8,128]{1,0} parameter(0)', '%b = f32[8,128]{1,0} parameter(1)']
  inner = ['ROOT %inner = f32[8,128]{1,0} negate(%a)']
  body = '\n'.join(f'  {line}' for line in (*parameters, *lines))
  return f'%one (x: f32[8,128]) -> f32[8,128] {{\n  {inner[0]}\n}}\n\nENTRY %main (a: f32[8,128]) -> f32[8,128] {{\n{body}\n}}\n'


@pytest.mark.parametrize(
  'lines, expected',
  [
    (['ROOT %c = f32[8,128]{1,0} add(%a, %b), metadata={op_name="add(%x, %y)"}'], 3 * MAP),
    (['ROOT %c = bf16[8,128]{1,0} convert(%a)'], 1.5 * MAP),
    (['ROOT %c = (f32[8,128]{1,0}, f32[8,128]{1,0}) tuple(%a, %b)'], 0),
    (['%c = f32[2,128]{1,0} slice(%a), slice={[0:2], [0:128]}'], 2 * MAP / 4),
    (['%c = f32[8,128]{1,0} dynamic-update-slice(%a, %d, %i, %i)', '%d = f32[1,128]{1,0} parameter(2)'], 2 * MAP / 8),
    (['%c = (f32[8,128]{1,0:S(1)}, f32[8,128]{1,0}, u32[]) copy-start(%a)', '%d = f32[8,128]{1,0:S(1)} copy-done(%c)'], MAP),
    (['%c = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[]) copy-start(%a)', '%d = f32[8,128]{1,0} copy-done(%c)'], 2 * MAP),
    (['%c = ((f32[8,128]{1,0}), f32[2,128]{1,0}, s32[]) slice-start(%a), slice={[0:2], [0:128]}', '%d = f32[2,128]{1,0} slice-done(%c)'], 2 * MAP / 4),
    (['%c = ((f32[8,128]{1,0}), f32[2,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:128]}', '%d = f32[2,128]{1,0:S(1)} slice-done(%c)'], MAP / 4),
    (['%c = (f32[8,128]{1,0}, f32[8,128]{1,0:S(1)}, u32[]) copy-start(%e)', '%d = f32[8,128]{1,0} copy-done(%c)'], MAP),
    (['%c = (f32[8,128]{1,0}, f32[32,128]{1,0}) all-gather-start(%a), dimensions={0}', '%d = f32[32,128]{1,0} all-gather-done(%c)'], 5 * MAP),
    (['%c = f32[8,128]{1,0} all-reduce-start(%a), to_apply=%one', '%d = f32[8,128]{1,0} all-reduce-done(%c)'], 2 * MAP),
    (['%c = f32[8,128]{1,0} custom-call(), custom_call_target="AllocateBuffer"'], 0),
    (['%c = f32[8,128]{1,0} call(%a), to_apply=%one'], 2 * MAP),
    (['%c = f32[8,128]{1,0} conditional(%p, %a, %a), true_computation=%one, false_computation=%empty'], 2 * MAP),
  ],
)  # fmt: skip
def test_instructions(lines, expected):
  assert traffic.count(program(*lines)) == expected


def test_a_program_of_this_machine():
  """A loop over rows: at least each row read and written, at most twice that."""
  rows = jax.ShapeDtypeStruct((50, 4096), jnp.float32)
  compiled = jax.jit(lambda x: jax.lax.map(jnp.sin, x)).lower(rows).compile()
  moved = traffic.count(compiled.as_text())
  assert 2 * 50 * 4096 * 4 <= moved <= 4 * 50 * 4096 * 4
