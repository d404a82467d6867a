#!/usr/bin/env bash
# Training on SLURM, one process per GPU or per node, or evaluation on one node.
#
#   launch/slurm.sh [--dry-run] SETTINGS [train|evaluate]
#
# Run on a login node it submits a job that runs this file again. Two minutes before the time limit, and at preemption,
# SLURM sends SIGTERM to the processes; they save, and the job goes back to the queue. The code is that of this checkout
# when the job starts, which all nodes must see.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=supervise.sh
source "$repository/launch/supervise.sh"

submit() {
  local gpus=()
  if ((GPUS_PER_NODE)); then gpus=("--gpus-per-node=$GPUS_PER_NODE"); fi
  run mkdir -p "$logs"
  run sbatch "--job-name=$NAME" "--nodes=$NODES" "--ntasks-per-node=$PROCESSES_PER_NODE" \
    "--cpus-per-task=$CPUS_PER_PROCESS" "${gpus[@]}" --requeue --signal=TERM@120 --open-mode=append \
    "--output=$logs/job.log" "${SBATCH_OPTIONS[@]}" \
    --wrap "exec bash $(quote "$repository/launch/slurm.sh" "$settings" "$task")"
}

# The step's words, in the array `step`. A task that fails does not end the others at once, so that each can say why; a
# minute later they are ended. srun does not take over sbatch's --cpus-per-task.
make_step() {
  step=(srun "--ntasks=$((NODES * PROCESSES_PER_NODE))" "--ntasks-per-node=$PROCESSES_PER_NODE"
    "--cpus-per-task=$CPUS_PER_PROCESS" --kill-on-bad-exit=0 --wait=60
    "--output=$logs/process-%t.log" --open-mode=append "${SRUN_OPTIONS[@]}" "${command[@]}")
}

forward_stop() { kill -TERM "${pids[@]}"; }

# Only the processes were sent SIGTERM: the time limit or a preemption. If this script was too, the user has cancelled the
# job, or SLURM is about to end or requeue it by itself.
work() {
  pids=()
  "${step[@]}" </dev/null &
  pids+=("$!")
  supervise
  if ((status == 0 || status == 2)) || [[ $stop ]]; then exit "$status"; fi
  if ((${SLURM_RESTART_COUNT:-0} >= MAX_RESTARTS)); then
    say "ended with status $status; not requeued: restarts ${SLURM_RESTART_COUNT:-0}, at most $MAX_RESTARTS (MAX_RESTARTS)"
    exit "$status"
  fi
  say "ended with status $status; requeued"
  scontrol requeue "$SLURM_JOB_ID"
}

begin 'train|evaluate' "$@"
need_name
need CPUS_PER_PROCESS "the CPU cores of a process"
number CPUS_PER_PROCESS 1
if [[ $task == evaluate ]]; then NODES=1 PROCESSES_PER_NODE=1; fi
((PROCESSES_PER_NODE == 1 || PROCESSES_PER_NODE == GPUS_PER_NODE)) ||
  die "$settings: PROCESSES_PER_NODE=$PROCESSES_PER_NODE must be 1 or GPUS_PER_NODE=$GPUS_PER_NODE"
# Alone on its node, a process would get but one GPU: JAX expects one process per GPU under SLURM.
if [[ $task == train ]] && ((PROCESSES_PER_NODE == 1 && GPUS_PER_NODE > 1)); then
  ENVIRONMENT+=("JAX_LOCAL_DEVICE_IDS=$(seq --separator=, 0 $((GPUS_PER_NODE - 1)))")
fi
flair_jax=$(installed)
make_command "$(accelerator)" "$flair_jax" --distributed
if [[ $task == evaluate ]]; then logs=$(logs_of "$OUTPUT" .logs); else logs=$(logs_of "$WORKDIR" /logs); fi
make_step
if [[ ${SLURM_JOB_ID:-} && ! $dry_run ]]; then
  work
else
  submit
  if [[ $dry_run ]]; then
    echo '# and in the job:'
    run "${step[@]}"
  fi
fi
