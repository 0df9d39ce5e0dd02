# shellcheck shell=bash disable=SC2154
# Makes, signs and sends callbacks. Needs $secret, and $state, a folder that nobody else can read.

hex() { od -An -v -tx1 | tr -d ' \n'; }

# Prints standard input as a JSON string. Invalid UTF-8 becomes U+FFFD, because JSON has no other bytes.
json() {
  local bytes=() i=0 k n b need low high x out=''
  read -r -d '' -a bytes < <(od -An -v -tu1) || true
  n=${#bytes[@]}
  while ((i < n)); do
    b=${bytes[i]} need=0 low=128 high=191
    printf -v x '\\x%02x' "$b"
    if ((b == 34 || b == 92)); then x='\x5c'$x
    elif ((b < 32 || b == 127)); then printf -v x '\\x5cu%04x' "$b"
    elif ((b >= 194 && b <= 223)); then need=1
    elif ((b >= 224 && b <= 239)); then need=2
    elif ((b >= 240 && b <= 244)); then need=3
    elif ((b >= 128)); then x='\xef\xbf\xbd'
    fi
    # These leads allow fewer second bytes: the others would be overlong, surrogates or beyond Unicode.
    case $b in 224) low=160 ;; 237) high=159 ;; 240) low=144 ;; 244) high=143 ;; esac
    for ((k = 1; k <= need; k++)); do
      b=${bytes[i + k]:-0}
      if ((b < low || b > high)); then
        x='\xef\xbf\xbd' need=0
        break
      fi
      printf -v x '%s\\x%02x' "$x" "$b"
      low=128 high=191
    done
    out+=$x
    ((i += need + 1))
  done
  printf '"%b"' "$out"
}

# Prints the JSON field $1 with the text $2, after a comma.
field() { printf ',"%s":%s' "$1" "$(printf %s "$2" | json)"; }

pad() {
  local i x out=''
  for ((i = 0; i < 128; i += 2)); do
    printf -v x '\\x%02x' "$((16#${1:i:2} ^ $2))"
    out+=$x
  done
  printf '%b' "$out"
}

# Prints the HMAC-SHA256 of the file $1, made from plain digests as RFC 2104 defines it: openssl takes the key of an
# HMAC as an argument only, where every process on the machine could read it.
signature() {
  local key
  key=$(printf %s "$secret" | hex)
  if ((${#key} > 128)); then key=$(printf %s "$secret" | openssl dgst -sha256 -binary | hex); fi
  while ((${#key} < 128)); do key+='00'; done
  {
    pad "$key" 0x5c
    { pad "$key" 0x36 && cat "$1"; } | openssl dgst -sha256 -binary
  } | openssl dgst -sha256 -binary | hex
}

# Whether a callback is still worth sending.
is_wanted() { true; }

# Prints the start of the file $1 on one line, without anything that old runners would take for a command.
first_words() {
  local text
  # Octal, because BusyBox's tr may be built without classes.
  text=$(head -c 300 "$1" | tr -c '\040-\176' ' ')
  text=${text%"${text##*[! ]}"}
  printf %s "${text//'##['/'## ['}"
}

# Sends one callback for the job with the JSON fields $2, and retries for $1 seconds while that can help. Leaves the
# reason for a failure in $reason.
send() {
  local deadline=$1 fields=$2 work pause backoff=1 status code name value again left end=$((SECONDS + $1))
  fields="\"job_id\":$(printf %s "$ACKLINE_JOB_ID" | json)$fields"
  if [[ -n ${GITHUB_RUN_ID-} ]]; then fields+=$(field workflow_run_id "$GITHUB_RUN_ID"); fi
  if [[ ${GITHUB_RUN_ATTEMPT-} =~ ^[1-9][0-9]{0,8}$ ]]; then fields+=",\"run_attempt\":$GITHUB_RUN_ATTEMPT"; fi
  # Every attempt has the same id, so that a callback whose answer was lost is recognised.
  fields+=",\"event_id\":\"$(openssl rand -hex 16)\""
  if ! work=$(mktemp -d "$state/call.XXXXXX"); then
    reason="there is no room for it in $state"
    return 1
  fi
  while :; do
    # The signed body holds the time, which must be recent, so every attempt is signed again.
    printf '{%s,"sent_at":%s}' "$fields" "$(date +%s)" >"$work/body"
    value=$(signature "$work/body") || value=''
    if ((${#value} != 64)); then
      reason='openssl could not sign the callback'
      break
    fi
    printf 'Content-Type: application/json\nX-Signature: %s\n' "$value" >"$work/headers"
    : >"$work/head"
    : >"$work/answer"
    left=$((end - SECONDS))
    status=0
    code=$(curl --disable --silent --show-error --globoff --proto =http,https \
      --connect-timeout 5 --max-time "$((left < 1 ? 1 : left > 20 ? 20 : left))" \
      --url "$ACKLINE_CALLBACK_URL" --header "@$work/headers" --data-binary "@$work/body" \
      --dump-header "$work/head" --output "$work/answer" --write-out '%{http_code}' 2>"$work/curl") || status=$?
    again=no pause=$backoff
    if ((status == 0)); then
      case $code in
        2??)
          rm -rf "$work"
          return 0
          ;;
        3??) reason="the server answered $code, and redirects are not followed" ;;
        *)
          value=$(first_words "$work/answer")
          reason="the server answered $code${value:+: $value}"
          ;;
      esac
      # What passes by itself: also too early (425), overloaded (529), a proxy's time limits (598, 599), and Cloudflare's
      # words for a server that it does not reach (520 to 525, 530).
      case $code in 408 | 425 | 429 | 500 | 50[2-4] | 52[0-5] | 529 | 530 | 59[89]) again=yes ;; esac
      while IFS=': ' read -r name value; do
        if [[ $name == retry-after && $value =~ ^[0-9]{1,5}$ ]]; then pause=$((10#$value)); fi
      done < <(tr 'A-Z\r' 'a-z\n' <"$work/head")
    else
      reason="no answer from the server: $(first_words "$work/curl")"
      # Names that do not resolve, and connections that were refused, broken or too slow.
      case $status in 5 | 6 | 7 | 8 | 16 | 18 | 28 | 35 | 52 | 55 | 56 | 92 | 97) again=yes ;; esac
    fi
    if [[ $again == no ]]; then break; fi
    left=$((end - SECONDS))
    if ((left <= 0)); then
      reason="gave up after $deadline s: $reason"
      break
    fi
    if ((pause > left)); then pause=$left; fi
    say "$reason; trying again in $pause s"
    sleep "$pause.$((RANDOM % 10))"
    is_wanted || break
    backoff=$((backoff < 8 ? backoff * 2 : 15))
  done
  rm -rf "$work"
  return 1
}
