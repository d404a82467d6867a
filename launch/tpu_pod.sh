#!/usr/bin/env bash
# Training on all workers of a Cloud TPU slice, which is asked for as a queued resource.
#
#   launch/tpu_pod.sh [--dry-run] SETTINGS
#
# Creates the TPU unless it is there, copies the code, installs it, starts one process on each worker and shows what they
# print. When the TPU is preempted it is created anew, and the run resumes. SIGTERM or Ctrl-C: the run saves and stops.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=supervise.sh
source "$repository/launch/supervise.sh"

queue() { run gcloud compute tpus queued-resources "$1" "$NAME" "${where[@]}" "${@:2}"; }

# What every worker runs, as one word for ssh. A host that vanished is noticed after a minute and a half.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --quiet --ssh-flag=-oServerAliveInterval=30 \
    --command="$1"
}

create() {
  queue create --node-id="$NAME" --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" \
    "${TPU_OPTIONS[@]}"
}

# Returns once the TPU can be used, or with 1 if the user stops waiting. After a preemption it is SUSPENDED, and has to be
# deleted before it can be created again.
acquire() {
  local state failures=0
  while [[ ! $stop ]]; do
    state=$(queue describe '--format=value(state.state)' 2>"$scratch/errors") || state=UNKNOWN
    if [[ $state == UNKNOWN && $(<"$scratch/errors") == *NOT_FOUND* ]]; then state=NONE; fi
    say "TPU $NAME: $state"
    case $state in
      ACTIVE) return 0 ;;
      NONE) create || exit 1 ;;
      SUSPENDED) queue delete --force --quiet || exit 1 ;;
      FAILED) die "$NAME: the request for the TPU has failed; gcloud compute tpus queued-resources describe says why" ;;
      UNKNOWN)
        cat "$scratch/errors" >&2
        failures=$((failures + 1))
        if ((failures == 10)); then exit 1; fi
        sleep 30
        ;;
      *) sleep 30 ;;
    esac
  done
  return 1
}

# Copies and installs the code. TPU images have Python 3.10, so uv fetches a newer one.
install_code() {
  local archive=CODE.tar.gz setup="mkdir -p $NAME && tar -xzf $NAME.tar.gz -C $NAME && cd $NAME"
  setup+=" && python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python=3.12 .venv"
  setup+=" && python3 -m uv pip install --quiet --python=.venv -c constraints.txt -e $(quote ".$(extras)") 'jax[tpu]'"
  if [[ $WORKER_SETUP ]]; then setup="{ $WORKER_SETUP; } && $setup"; fi
  if [[ ! $dry_run ]]; then
    archive=$scratch/code.tar.gz
    pack >"$archive"
  fi
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:$NAME.tar.gz" "${where[@]}" --worker=all --quiet && on_workers "$setup"
}

# The lock keeps a run that is still ending, after a broken connection, and the next apart.
start_training() {
  on_workers "cd $NAME && echo \$\$ >run.pid && exec flock --no-fork run.lock $(quote "${command[@]}")"
}

# If no training has started yet, the copying or installing is ended.
forward_stop() { on_workers "kill -TERM \$(cat $NAME/run.pid)" || kill -TERM -- "-${pids[0]}"; }

attempt() {
  if [[ $status ]]; then sleep 30; fi # a TPU that is being preempted counts as ACTIVE for a while
  status=$stopped_status
  acquire || return 0
  # That tar or uv failed, with 2 as well, is not bad input of the run.
  { if install_code; then start_training; else exit 1; fi; } </dev/null &
  pids=("$!")
  supervise
}

# What is left to do with the TPU at the end.
leave() {
  rm -r "$scratch"
  if [[ $status == 0 && $DELETE_WHEN_DONE == yes ]]; then
    queue delete --force --quiet
  else
    say "the TPU, if created, is still there: gcloud compute tpus queued-resources delete $NAME ${where[*]} --force"
  fi
}

begin train "$@"
need_name
need ZONE "the zone of the TPU, such as us-east5-b"
need ACCELERATOR_TYPE "the TPU's type, such as v5litepod-16"
platform=$(tpu_platform "$ACCELERATOR_TYPE")
case $platform in # as Google Cloud's page "TPU software versions" recommends for JAX
  v4) default_version='tpu-ubuntu2204-base' ;;
  v5e) default_version=v2-alpha-tpuv5-lite ;;
  v5p) default_version=v2-alpha-tpuv5 ;;
  v6e) default_version=v2-alpha-tpuv6e ;;
esac
RUNTIME_VERSION=${RUNTIME_VERSION:-$default_version}
where=("--zone=$ZONE")
if [[ $PROJECT ]]; then where+=("--project=$PROJECT"); fi
need_shared_paths
make_command "$platform" .venv/bin/flair-jax --distributed
if [[ $dry_run ]]; then
  queue describe '--format=value(state.state)'
  create
  install_code
  start_training
  if [[ $DELETE_WHEN_DONE == yes ]]; then queue delete --force --quiet; fi
  exit
fi
scratch=$(mktemp -d)
status=''
trap leave EXIT
until_done
