#!/usr/bin/env bash
# Training on TPUs of a GKE cluster through XPK.
#
#   launch/xpk.sh [--dry-run] SETTINGS
#
# Builds the image with this checkout in it, uploads it and submits a workload, whose JobSet starts all pods again after a
# preemption or a crash, at most MAX_RESTARTS times, and not after bad input.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build() {
  local parts=(docker build --build-arg=ACCELERATOR=tpu) ours
  ours=$(extras)
  if [[ $ours ]]; then parts+=("--build-arg=EXTRAS=$ours"); fi
  parts+=(--file=launch/Dockerfile "--tag=$IMAGE" -)
  if [[ $dry_run ]]; then
    printf 'CODE.tar.gz | '
    run "${parts[@]}"
  else
    pack | "${parts[@]}"
  fi
}

begin train "$@"
need_name
need CLUSTER "the GKE cluster, made by xpk cluster create"
need ZONE "the cluster's zone"
need ACCELERATOR_TYPE "the TPU's type, such as v5litepod-16"
need IMAGE "the image's name in a registry that the cluster can read"
platform=$(tpu_platform "$ACCELERATOR_TYPE")
need_shared_paths
make_command "$platform" flair-jax --distributed
project=()
if [[ $PROJECT ]]; then project=("--project=$PROJECT"); fi
build
run docker push "$IMAGE"
# XPK starts pods again that end with 42 or 127 to 255, such as 143; 1 is a Python program that crashed. `exec` because
# XPK's shell sends SIGTERM to this command alone.
run xpk workload create "--workload=$NAME" "--cluster=$CLUSTER" "--zone=$ZONE" "${project[@]}" \
  "--tpu-type=$ACCELERATOR_TYPE" "--docker-image=$IMAGE" "--max-restarts=$MAX_RESTARTS" --restart-on-exit-codes=1 \
  --termination-grace-period-seconds=120 "${XPK_OPTIONS[@]}" "--command=exec $(quote "${command[@]}")"
