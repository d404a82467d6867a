# shellcheck shell=bash disable=SC2153,SC2154 # settings
# Recommended compiler flags and environment for each platform. The only place where they are; an unknown flag ends the
# process at its start, so tests/launch/test_xla_flags.py gives every one of them to the pinned jaxlib and libtpu.
#
# None of this was measured on a GPU or TPU by us; what is recommended is what the sources recommend for any transformer.
# Sources: [jax] JAX's "GPU performance tips"; [nv] NVIDIA JAX-Toolbox's "Tips for High-Performance LLMs"; [mt] MaxText's
# benchmarks/xla_flags_library.py and the LIBTPU_INIT_ARGS of its v5e, v5p and v6e recipes.

# recommend PLATFORM (cpu, gpu, v4, v5e, v5p or v6e): puts NAME=VALUE words in the array `recommended`. The settings
# XLA_FLAGS and LIBTPU_INIT_ARGS come last, where they win.
recommend() {
  local xla=() tpu=()
  recommended=()
  case $1 in
    cpu)
      # Huge pages for what XLA allocates anew each step: a quarter less time in `make demo` on Linux.
      recommended=(JAX_PLATFORMS=cpu GLIBC_TUNABLES=glibc.malloc.hugetlb=1)
      ;;
    gpu)
      # Communication while computing; [jax], [nv].
      xla=(--xla_gpu_enable_latency_hiding_scheduler=true)
      # The default leaves a quarter of the memory unused; [nv] uses 0.8 to 0.9.
      recommended=(XLA_PYTHON_CLIENT_MEM_FRACTION=0.9)
      ;;
    v4 | v5e | v5p | v6e)
      # Without a TPU this is an error, where JAX would otherwise use the CPU.
      recommended=('JAX_PLATFORMS=tpu,cpu')
      # All-reduces of gradients (mesh.data) and all-gathers of parameters (mesh.fsdp) run while the next layers compute, the
      # latter fused with their products, over several of them; [mt] CF_FOR_ALL_REDUCE_AND_ALL_GATHER.
      tpu=(--xla_enable_async_all_reduce=true --xla_enable_async_all_gather=true
        --xla_tpu_overlap_compute_collective_tc=true --xla_tpu_enable_async_collective_fusion=true
        --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
        --xla_tpu_enable_async_collective_fusion_multiple_steps=true)
      # Larger fusions in the 128 MiB of vector memory; [mt] for dense models on v6e alone.
      if [[ $1 == v6e ]]; then tpu+=(--xla_tpu_scoped_vmem_limit_kib=98304); fi
      ;;
    *) die "no recommended flags for the platform $1" ;;
  esac
  local xla_flags="${xla[*]} $XLA_FLAGS" tpu_flags="${tpu[*]} $LIBTPU_INIT_ARGS"
  if [[ $xla_flags != ' ' ]]; then recommended+=("XLA_FLAGS=$(trim "$xla_flags")"); fi
  if [[ $tpu_flags != ' ' ]]; then recommended+=("LIBTPU_INIT_ARGS=$(trim "$tpu_flags")"); fi
}

trim() {
  local text=${1# }
  printf '%s' "${text% }"
}

# The platform of a TPU's accelerator type.
tpu_platform() {
  case $1 in
    v4-*) echo v4 ;;
    v5litepod-* | v5e-*) echo v5e ;;
    v5p-*) echo v5p ;;
    v6e-*) echo v6e ;;
    *) die "$settings: ACCELERATOR_TYPE=$1 is none of v4-N, v5litepod-N, v5p-N, v6e-N" ;;
  esac
}
