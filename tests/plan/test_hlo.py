"""Reading optimised HLO: every way in which collectives and loops are written."""

import pytest

from flair_jax.plan.hlo import Collective, bytes_of, read_program

PROGRAM = """HloModule jit_step, is_scheduled=true

%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[], f32[8]{0}) parameter(0)
  %sum = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add, \
backend_config={"estimated_cycles":"10"}
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %sum)
}

%condition (carry: (s32[], f32[8])) -> pred[] {
  %carry.1 = (s32[], f32[8]{0}) parameter(0)
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p: f32[16]) -> f32[8] {
  %gather = bf16[64,4]{1,0} all-gather(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %scatter = f32[8]{0} reduce-scatter(%p), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, to_apply=%add
  %start = (f32[4]{0}, f32[32]{0}) all-gather-start(%p), replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
  %alone = f32[8]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  %turn = f32[8]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
  %loop = (s32[], f32[8]{0}) while(%init), condition=%condition, body=%body
  ROOT %out = f32[8]{0} fusion(%loop), kind=kLoop, calls=%other, backend_config={"estimated_cycles":"7"}
}
"""


def test_collectives_with_sizes_times_and_bytes() -> None:
    program = read_program(PROGRAM, slices=[0, 0, 0, 0, 1, 1, 1, 1])
    assert program.cycles == 5 * 10 + 7
    assert sorted(program.collectives, key=str) == sorted(
        [
            Collective("all-gather", ("bf16[64,4]",), 8, True, 1, 512 * 7 / 8),
            # Devices in the order 0 4 1 5 2 6 3 7, two to a group: one of each slice.
            Collective("reduce-scatter", ("f32[8]",), 2, True, 1, 32 * 2 / 2),
            Collective("all-gather", ("f32[32]",), 2, True, 1, 128 / 2),
            Collective("collective-permute", ("f32[8]",), 2, False, 1, 32),
            Collective("all-reduce", ("f32[8]",), 4, False, 5, 5 * 2 * 32 * 3 / 4),
        ],
        key=str,
    )


def test_what_hosts_exchange_between_slices_is_counted() -> None:
    send = (
        "  %send = (f32[2,8]{1,0}, u32[], token[]) send(%p, %after), channel_id=3, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="KIND"}\n'
    )
    for kind, sent in (("ALL_GATHER", 64), ("ALL_REDUCE", 64), ("REDUCE_SCATTER", 32), ("ALL_TO_ALL", 32)):
        program = PROGRAM.replace("ENTRY %main (p: f32[16]) -> f32[8] {\n", f"ENTRY %main () -> f32[8] {{\n{send}")
        name = kind.lower().replace("_", "-")
        found = read_program(program.replace("KIND", kind), [0] * 4 + [1] * 4).collectives
        assert Collective(name, ("f32[2,8]",), 2, True, 1, sent) in found


def test_the_compiler_may_state_how_often_a_loop_runs() -> None:
    known = PROGRAM.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert read_program(known).cycles == 3 * 10 + 7


def test_what_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="no entry"):
        read_program("HloModule nothing")
    with pytest.raises(ValueError, match="length of a loop"):
        read_program(PROGRAM.replace("constant(5)", "parameter(1)"))
    with pytest.raises(ValueError, match="not a shape"):
        bytes_of("token[]")


def test_bytes() -> None:
    assert [bytes_of(shape) for shape in ("f32[]", "bf16[3,5]", "pred[8]", "s4[8]")] == [4, 30, 8, 4]
