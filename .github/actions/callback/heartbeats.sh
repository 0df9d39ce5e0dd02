# shellcheck shell=bash disable=SC2154
# Sends heartbeats from a process that outlives its step, but neither its runner nor its lifetime.

# Prints when the process $1 was started, or nothing if it is gone.
born() {
  local stat fields
  if [[ -r /proc/self/stat ]]; then
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    read -r -a fields <<<"${stat##*) }"
    if [[ ${fields[0]} != [ZX] ]]; then printf %s "${fields[19]}"; fi
  # 0 is a parent that a container cannot see; to kill it would be this process's own group.
  elif (($1 > 0)) && kill -0 "$1" 2>/dev/null; then
    printf running
  fi
}

# Starts the heartbeats of a job whose runner is the process $1. A failure here does not fail the job.
start_heartbeats() {
  local i runner_born detach=(setsid)
  stop_heartbeats
  runner_born=$(born "$1")
  if [[ -z $ACKLINE_HEARTBEAT_LIFETIME && -n $runner_born ]]; then
    ACKLINE_HEARTBEAT_LIFETIME=21600
  elif [[ -z $ACKLINE_HEARTBEAT_LIFETIME ]]; then
    # Nothing else would end them with the runner.
    ACKLINE_HEARTBEAT_LIFETIME=3600
    printf '::warning::Ackline: %s\n' "the runner's process cannot be seen from this container, so the heartbeats end after $ACKLINE_HEARTBEAT_LIFETIME s. Set \"heartbeat-lifetime\" slightly above timeout-minutes."
  fi
  if ! command -v setsid >/dev/null; then
    detach=(nohup)
    # Gives the process a group of its own, as a session would. In a pipeline that group would be another process's.
    set -m
  fi
  # The secret goes through a pipe: a process's environment can be read for as long as it runs.
  ACKLINE_MODE=heartbeats "${detach[@]}" bash "${BASH_SOURCE[0]%/*}/callback.sh" "$1" "$runner_born" \
    < <(printf %s "$secret") >"$state/heartbeats.log" 2>&1 &
  set +m
  for ((i = 0; i < 100; i++)); do
    if [[ -s $state/heartbeats.pid ]]; then
      say "a heartbeat every $ACKLINE_HEARTBEAT_INTERVAL s has begun"
      return
    fi
    sleep 0.1
  done
  printf '::warning::Ackline: the heartbeats did not start.\n'
}

# Is the process that sends them, for the runner $1 that was started at $2.
heartbeats() {
  local runner=$1 runner_born=$2 next nap=$((ACKLINE_HEARTBEAT_INTERVAL < 5 ? ACKLINE_HEARTBEAT_INTERVAL : 5))
  # A retry after the next heartbeat is due would be useless.
  local deadline=$((ACKLINE_HEARTBEAT_INTERVAL < 10 ? 10 : ACKLINE_HEARTBEAT_INTERVAL))
  runner_is_gone() { [[ -n $runner_born && $(born "$runner") != "$runner_born" ]]; }
  # Without the file nobody could stop them.
  is_wanted() { ((SECONDS < ACKLINE_HEARTBEAT_LIFETIME)) && [[ -e $state/heartbeats.pid ]] && ! runner_is_gone; }
  cd /
  printf '%s %s\n' "$$" "$(born "$$")" >"$state/heartbeats.new"
  mv "$state/heartbeats.new" "$state/heartbeats.pid"
  while is_wanted; do
    next=$((SECONDS + ACKLINE_HEARTBEAT_INTERVAL))
    send "$deadline" ",\"type\":\"heartbeat\"$(timeout_field)" || say "a heartbeat was not confirmed: $reason"
    while is_wanted; do
      sleep "$nap"
      if ((SECONDS >= next)); then break; fi
    done
  done
  if runner_is_gone; then
    # Nobody else is left to remove it.
    rm -rf "$state"
  else
    say "the heartbeats have ended after their lifetime of $ACKLINE_HEARTBEAT_LIFETIME s"
  fi
}

# Stops the heartbeats, if there are any, and prints their log. Never fails.
stop_heartbeats() {
  local pid start i
  if [[ -s $state/heartbeats.pid ]]; then
    read -r pid start <"$state/heartbeats.pid"
    for ((i = 0; i < 50; i++)); do
      if [[ $(born "$pid") != "$start" ]]; then break; fi
      # It leads a group, so that its curl or sleep ends with it.
      if ((i == 0)); then kill -TERM -- "-$pid" 2>/dev/null || true; fi
      if ((i == 30)); then kill -KILL -- "-$pid" 2>/dev/null || true; fi
      sleep 0.1
    done
    cat "$state/heartbeats.log" || true
  fi
  rm -rf "$state"/heartbeats.* "$state"/call.*
}
