#!/usr/bin/env bash
# Run by action.yml. Its inputs are in the environment, and $1 is the runner's process.
set -euo pipefail
# This script handles text byte by byte.
export LC_ALL=C
umask 077
# The programs that this script starts do not need the secret.
secret=${ACKLINE_SECRET-}
unset ACKLINE_SECRET

# shellcheck source-path=SCRIPTDIR source=send.sh
source "${BASH_SOURCE[0]%/*}/send.sh"
# shellcheck source-path=SCRIPTDIR source=heartbeats.sh
source "${BASH_SOURCE[0]%/*}/heartbeats.sh"

say() { printf 'Ackline: %s\n' "$*"; }

fail() {
  if [[ $ACKLINE_MODE == stop-heartbeats ]]; then
    printf '::warning::Ackline: %s\n' "${*//%/%25}"
    exit 0
  fi
  # The step that reports the failure finds the reason here.
  if [[ -n ${state-} && $ACKLINE_STATUS != failed ]]; then printf '%s\n' "$*" >"$state/reason"; fi
  printf '::error::Ackline: %s\n' "${*//%/%25}"
  exit 1
}

mask() {
  local value=${secret//%/%25}
  value=${value//$'\r'/%0D}
  printf '::add-mask::%s\n' "${value//$'\n'/%0A}"
}

# Sets $state to the folder that this job's steps share. It belongs to this run, because some runners keep their
# temporary folder.
find_state() {
  local parent=${RUNNER_TEMP:-${TMPDIR:-/tmp}} name
  name=$(printf '%s\n' "$ACKLINE_JOB_ID" "${GITHUB_RUN_ID-}" "${GITHUB_RUN_ATTEMPT-}" "${GITHUB_JOB-}" | openssl dgst -sha256 -binary | hex)
  mkdir -p "$parent/ackline-${name:0:32}"
  # In a folder that others can write to, somebody may have created it first.
  if [[ -L $parent/ackline-${name:0:32} || ! -O $parent/ackline-${name:0:32} ]]; then
    fail "$parent/ackline-${name:0:32} belongs to somebody else."
  fi
  state=$parent/ackline-${name:0:32}
}

has_space_around() { [[ $1 == [[:space:]]* || $1 == *[[:space:]] ]]; }

is_seconds() { [[ $1 =~ ^[1-9][0-9]{0,5}$ ]]; }

check_inputs() {
  [[ -n $secret ]] || fail 'the secret is empty. Give the action the secret that Ackline has, as its input "secret"; an Actions secret that is not set is empty, too.'
  if has_space_around "$secret"; then
    fail 'the secret begins or ends with white space, perhaps a newline: set the Actions secret again, without it.'
  fi
  if has_space_around "$ACKLINE_CALLBACK_URL"; then fail 'the input "callback-url" begins or ends with white space.'; fi
  [[ $ACKLINE_CALLBACK_URL == http://* || $ACKLINE_CALLBACK_URL == https://* ]] || fail 'the input "callback-url" is no http or https URL.'
  is_seconds "$ACKLINE_DEADLINE" || fail 'the input "deadline" is not a number of seconds from 1 to 999999.'
  is_seconds "$ACKLINE_HEARTBEAT_INTERVAL" || fail 'the input "heartbeat-interval" is not a number of seconds from 1 to 999999.'
  if [[ -n $ACKLINE_HEARTBEAT_TIMEOUT ]]; then
    if ! is_seconds "$ACKLINE_HEARTBEAT_TIMEOUT" || ((ACKLINE_HEARTBEAT_TIMEOUT > 86400)); then
      fail 'the input "heartbeat-timeout" is not a number of seconds from 1 to 86400.'
    fi
    if [[ $ACKLINE_MODE == start-heartbeats ]] && ((ACKLINE_HEARTBEAT_TIMEOUT <= ACKLINE_HEARTBEAT_INTERVAL)); then
      fail 'the input "heartbeat-timeout" is not longer than "heartbeat-interval": every heartbeat would come too late.'
    fi
  fi
  [[ -z $ACKLINE_HEARTBEAT_LIFETIME ]] || is_seconds "$ACKLINE_HEARTBEAT_LIFETIME" ||
    fail 'the input "heartbeat-lifetime" is not a number of seconds from 1 to 999999.'
}

# Prints the job's own timeout as a JSON field, if it has one.
timeout_field() {
  if [[ -n $ACKLINE_HEARTBEAT_TIMEOUT ]]; then printf ',"heartbeat_timeout_s":%s' "$ACKLINE_HEARTBEAT_TIMEOUT"; fi
}

# Sets $step to the first step that did not succeed, and $outcome to its outcome.
find_failed_step() {
  local pair
  step='' outcome=''
  for pair in $ACKLINE_OUTCOMES; do
    [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_-]*=(success|failure|cancelled|skipped)?$ ]] ||
      fail 'the input "outcomes" is not a list of id=outcome.'
    if [[ -z $step && $pair =~ =(failure|cancelled)$ ]]; then step=${pair%%=*} outcome=${pair#*=}; fi
  done
}

# Prints the text $1 without the secret and without what looks like a credential.
redact() {
  local text
  # Unquoted as a whole: within quotes, bash 3.2 takes the secret for a pattern.
  text=${1//"$secret"/[redacted]}
  printf '%s\n' "$text" | sed -E -f "${BASH_SOURCE[0]%/*}/redact.sed"
}

# Prints why the job failed. The texts are redacted before they are cut, because a part of a credential does not look
# like one.
error_message() {
  local file error
  error=$(redact "${ACKLINE_ERROR:0:8192}")
  if [[ -z $error && -n $step ]]; then
    for file in "${ACKLINE_ERROR_FOLDER:+$ACKLINE_ERROR_FOLDER/$step.err}" "$state/reason"; do
      if [[ -n $error || ! -s $file ]]; then continue; fi
      error=$(redact "$(tail -c 8192 "$file" | tr -d '\000')")
      if ((${#error} > 1024)); then error=${error:${#error}-1024}; fi
      # The cut may have split a character.
      while [[ $error == [$'\x80'-$'\xbf']* ]]; do error=${error#?}; done
    done
  fi
  if [[ $outcome == cancelled || $ACKLINE_JOB_STATUS == cancelled ]]; then
    error="The workflow run was cancelled or ran out of time.${error:+ $error}"
  elif [[ -z $error && -n $step ]]; then
    error="The step $step failed."
  elif [[ -z $error ]]; then
    error='The workflow run failed.'
  fi
  printf %s "${error:0:4096}"
}

report_status() {
  local body=",\"status\":\"$ACKLINE_STATUS\"" step='' outcome=''
  case $ACKLINE_STATUS in
    queued)
      if [[ -n $ACKLINE_AGENT_ID ]]; then body+=$(field agent_id "$ACKLINE_AGENT_ID"); fi
      if [[ -n $ACKLINE_REGION ]]; then body+=$(field region "$ACKLINE_REGION"); fi
      body+=$(timeout_field)
      ;;
    provisioning)
      rm -f "$state/succeeded"
      body+=$(timeout_field)
      if [[ ${GITHUB_RUN_ID-} == 1 ]]; then
        printf '::warning::Ackline: %s\n' 'the run id is 1, as it always is in act: Ackline cannot tell a second run from this one, and a job that this one ends stays so. Give each run its own GITHUB_RUN_ID; act takes it by --env GITHUB_RUN_ID=NUMBER.'
      fi
      ;;
    # From here on the job has succeeded, whether or not the report arrives.
    running) : >"$state/succeeded" ;;
    failed)
      if [[ -e $state/succeeded ]]; then
        say 'the job has succeeded, and only the report of that may be missing: it is not reported as failed'
        return
      fi
      find_failed_step
      body+=$(field error "$(error_message)")
      if [[ -n $step ]]; then body+=$(field failed_step "$step"); fi
      ;;
    *) fail 'the input "status" is neither "queued", "provisioning", "running" nor "failed".' ;;
  esac
  send "$ACKLINE_DEADLINE" "$body" || fail "the callback $ACKLINE_STATUS was not confirmed: $reason"
  say "reported $ACKLINE_STATUS${step:+ in the step $step}"
}

for program in curl openssl od tr sed mktemp; do
  command -v "$program" >/dev/null || fail "the runner has no $program."
done
[[ -n $ACKLINE_JOB_ID ]] || fail 'the input "job-id" is empty.'
find_state

case $ACKLINE_MODE in
  status)
    check_inputs
    mask
    report_status
    ;;
  start-heartbeats)
    check_inputs
    mask
    start_heartbeats "$1"
    ;;
  stop-heartbeats) stop_heartbeats ;;
  heartbeats)
    IFS='' read -r -d '' secret || true
    exec </dev/null
    heartbeats "$1" "$2"
    ;;
  *) fail 'the input "mode" is neither "status", "start-heartbeats" nor "stop-heartbeats".' ;;
esac
