"""Bytes that a program moves, counted in one written by hand."""

from flair_jax.plan.operations import read_operations
from flair_jax.plan.traffic import moved_bytes

# Arrays of 8, 4 and 1 rows of 128 bytes: `layers` is sliced in a fusion, `kept` updated in place, S(1) is fast memory.
PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (layers.1: f32[8,32], number.1: s32[]) -> f32[1,32] {
  %layers.1 = f32[8,32]{1,0} parameter(0)
  %number.1 = s32[] parameter(1)
  %flat = f32[8,32]{1,0} bitcast(%layers.1)
  %one = f32[1,32]{1,0} dynamic-slice(%flat, %number.1), dynamic_slice_sizes={1,32}
  ROOT %twice = f32[1,32]{1,0} add(%one, %one)
}

%updated (kept.1: f32[8,32], row.1: f32[1,32], number.2: s32[]) -> f32[8,32] {
  %kept.1 = f32[8,32]{1,0} parameter(0)
  %row.1 = f32[1,32]{1,0} parameter(1)
  %number.2 = s32[] parameter(2)
  ROOT %new = f32[8,32]{1,0} dynamic-update-slice(%kept.1, %row.1, %number.2)
}

%body (carry: (s32[], f32[8,32], f32[8,32])) -> (s32[], f32[8,32], f32[8,32]) {
  %carry = (s32[], f32[8,32]{1,0}, f32[8,32]{1,0}) parameter(0)
  %number = s32[]{:S(2)} get-tuple-element(%carry), index=0
  %layers = f32[8,32]{1,0} get-tuple-element(%carry), index=1
  %kept = f32[8,32]{1,0} get-tuple-element(%carry), index=2
  %row = f32[1,32]{1,0:T(8,128)S(1)} fusion(%layers, %number), kind=kLoop, calls=%fused
  %stored = f32[8,32]{1,0} fusion(%kept, %row, /*index=2*/%number), kind=kLoop, calls=%updated
  ROOT %next = (s32[], f32[8,32]{1,0}, f32[8,32]{1,0}) tuple(%number, %layers, %stored)
}

%condition (carry.1: (s32[], f32[8,32], f32[8,32])) -> pred[] {
  %carry.1 = (s32[], f32[8,32]{1,0}, f32[8,32]{1,0}) parameter(0)
  %number.3 = s32[]{:S(2)} get-tuple-element(%carry.1), index=0
  %limit = s32[]{:S(2)} constant(8)
  ROOT %less = pred[]{:S(2)} compare(%number.3, %limit), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p: f32[8,32]) -> f32[4,32] {
  %p = f32[8,32]{1,0} parameter(0)
  %zero = s32[]{:S(2)} constant(0)
  %start = (f32[8,32]{1,0:S(1)}, f32[8,32]{1,0}, u32[]{:S(2)}) copy-start(%p)
  %done = f32[8,32]{1,0:S(1)} copy-done(%start)
  %init = (s32[], f32[8,32]{1,0}, f32[8,32]{1,0}) tuple(%zero, %p, %p)
  %loop = (s32[], f32[8,32]{1,0}, f32[8,32]{1,0}) while(%init), condition=%condition, body=%body
  %result = f32[8,32]{1,0} get-tuple-element(%loop), index=2
  %half = bf16[8,32]{1,0} convert(%result)
  %part = f32[4,32]{1,0} slice(%done), slice={[0:4], [0:32]}
  ROOT %total = f32[4,32]{1,0} all-reduce(%part), replica_groups={{0,1}}, to_apply=%add
}
"""


def memory_bytes(text: str) -> int:
    """Of one run of a program."""
    parsed, runs = read_operations(text)
    return sum(run.times * moved_bytes(run.operation, run.computation, parsed) for run in runs)


def test_every_operand_and_result_in_memory_counts_once_and_of_slices_their_part() -> None:
    row = 128
    loop = 8 * (row + row)  # one row of `layers` read, one row of `kept` written
    copied = 8 * row  # read; the target is near
    converted = 8 * row + 8 * row // 2
    sliced = 4 * row  # of what is near
    reduced = 2 * 4 * row
    assert memory_bytes(PROGRAM) == loop + copied + converted + sliced + reduced


def test_the_padding_of_a_layout_counts() -> None:
    padded = PROGRAM.replace("%half = bf16[8,32]{1,0} convert", "%half = bf16[8,32]{0,1:T(8,128)(2,1)} convert")
    assert memory_bytes(padded) - memory_bytes(PROGRAM) == 2 * (128 * 32 - 8 * 32)


def test_a_kernel_reads_an_array_once_and_names_of_memory_move_nothing() -> None:
    call = '  %{} = f32[4,32]{{1,0}} custom-call({}), custom_call_target="{}"\n  %half = bf16'
    kernel = call.format("kernel", "%p, %p, %done", "tpu_custom_call")
    assert memory_bytes(PROGRAM.replace("  %half = bf16", kernel)) - memory_bytes(PROGRAM) == (8 + 4) * 128
    buffer = call.format("buffer", "%p", "AllocateBuffer")
    assert memory_bytes(PROGRAM.replace("  %half = bf16", buffer)) == memory_bytes(PROGRAM)
