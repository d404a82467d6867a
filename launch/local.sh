#!/usr/bin/env bash
# Training or evaluation on this machine, on its CPU or GPUs, in one process or several.
#
#   launch/local.sh [--dry-run] SETTINGS [train|evaluate]
#
# SIGTERM or Ctrl-C: the step is finished and saved, and the same command resumes. A run that dies is started again.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=supervise.sh
source "$repository/launch/supervise.sh"

# A port that is free now, on the loopback interface. If another program is faster, the run dies and the next has another.
free_port() {
  "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# process_command INDEX PORT: what starts one of the processes, in the array `words_of_process`.
process_command() {
  words_of_process=("${command[@]}")
  if ((PROCESSES_PER_NODE == 1)); then return; fi
  words_of_process+=(--distributed "--coordinator=127.0.0.1:$2" "--process=$1" "--processes=$PROCESSES_PER_NODE")
  if ((GPUS_PER_NODE)); then words_of_process=(env "JAX_LOCAL_DEVICE_IDS=$1" "${words_of_process[@]:1}"); fi
}

forward_stop() { kill -TERM "${pids[@]}"; }

# Starts all processes and waits for them. The first one's output is shown too.
attempt() {
  local index port
  port=$(free_port)
  pids=()
  for ((index = 0; index < PROCESSES_PER_NODE; index++)); do
    process_command "$index" "$port"
    if ((index == 0)); then
      "${words_of_process[@]}" </dev/null > >(tee -a "$logs/process-0.log") 2> >(tee -a "$logs/process-0.log" >&2) &
    else
      "${words_of_process[@]}" </dev/null >>"$logs/process-$index.log" 2>&1 &
    fi
    pids+=("$!")
  done
  supervise
}

begin 'train|evaluate' "$@"
((PROCESSES_PER_NODE == 1 || GPUS_PER_NODE == 0 || PROCESSES_PER_NODE == GPUS_PER_NODE)) ||
  die "$settings: PROCESSES_PER_NODE=$PROCESSES_PER_NODE must be 1 or GPUS_PER_NODE=$GPUS_PER_NODE"
flair_jax=$(installed)
make_command "$(accelerator)" "$flair_jax"
if [[ $task == evaluate ]]; then
  if [[ ! $dry_run ]]; then exec "${command[@]}"; fi
  run "${command[@]}"
  exit
fi
python=$(if [[ $flair_jax == */* ]]; then echo "${flair_jax%/*}/python"; else echo python3; fi)
if [[ $dry_run ]]; then
  port=$(free_port)
  for ((index = 0; index < PROCESSES_PER_NODE; index++)); do
    process_command "$index" "$port"
    run "${words_of_process[@]}"
  done
  exit
fi
logs=$(logs_of "$WORKDIR" /logs)
mkdir -p "$logs"
until_done
