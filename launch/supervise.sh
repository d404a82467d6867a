# shellcheck shell=bash disable=SC2154 # variables of the script that sources it
# Waiting for processes that make up one run: when one fails the others are ended, and SIGTERM reaches all of them.

set -m # each background process gets a group of its own: Ctrl-C ends none of them, and their workers can be ended too
stop=''
trap 'stop=yes' TERM INT HUP

# supervise: waits for all of the array `pids` and sets `status`: 2 if one of them got bad input, else that of the first
# that failed, else 0. After SIGTERM or Ctrl-C it calls `forward_stop`, once.
supervise() {
  local index code forwarded='' deadline='' codes=()
  status=0
  while ((${#codes[@]} < ${#pids[@]})); do
    if [[ $stop && ! $forwarded ]]; then
      forwarded=yes
      forward_stop || :
    fi
    for index in "${!pids[@]}"; do
      if [[ ${codes[index]+ended} ]] || kill -0 "${pids[index]}" 2>/dev/null; then continue; fi
      code=0
      wait "${pids[index]}" || code=$?
      codes[index]=$code
      kill -KILL -- "-${pids[index]}" 2>/dev/null || : # workers that outlived it
      if ((code == 0)); then continue; fi
      if ((code == 2 || status == 0)); then status=$code; fi
      # Those that are left wait for it in vain, but for a stop that all save before.
      [[ $deadline ]] || deadline=$((SECONDS + (code == stopped_status ? 60 : 15)))
    done
    if [[ $deadline ]] && ((SECONDS >= deadline)); then
      for index in "${!pids[@]}"; do
        [[ ${codes[index]+ended} ]] || kill -KILL -- "-${pids[index]}" 2>/dev/null || :
      done
    fi
    sleep 0.2
  done
}

# until_done: calls `attempt`, which sets `status`, until the run has finished, has bad input, was stopped by the user or
# was restarted MAX_RESTARTS times; ends with its status.
until_done() {
  local restarts=0
  while :; do
    attempt
    if ((status == 0 || status == 2)); then exit "$status"; fi
    if [[ $stop ]]; then
      say "stopped; the same command resumes"
      exit "$status"
    fi
    if ((restarts >= MAX_RESTARTS)); then
      say "ended with status $status; not started again: restarts $restarts, at most $MAX_RESTARTS (MAX_RESTARTS)"
      exit "$status"
    fi
    restarts=$((restarts + 1))
    say "ended with status $status; restart $restarts of at most $MAX_RESTARTS"
  done
}
