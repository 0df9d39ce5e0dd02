# Takes credentials out of a text that leaves the runner, whose masks reach its own logs only. For sed -E of GNU, BSD
# and BusyBox. Names stay, so that the text still says what was wrong.

# https://user:password@host, https://token@host
s#([A-Za-z][A-Za-z0-9+.-]*://[^/@:[:space:]]*:)[^/[:space:]]+@#\1[redacted]@#g
s#([A-Za-z][A-Za-z0-9+.-]*://)[^/@:[:space:]]{16,}@#\1[redacted]@#g

# Headers
s/([Aa]uthorization|AUTHORIZATION)((\\)*["']?: *(\\)*["']?)([A-Za-z]+ +)?[^[:space:]"'\\,]+/\1\2\5[redacted]/g
s/([Bb]earer|BEARER)( +)[A-Za-z0-9._~+/=-]{16,}/\1\2[redacted]/g
s/([Xx]-[A-Za-z-]*([Kk]ey|[Tt]oken|[Ss]ecret)|(PRIVATE|JOB|DEPLOY)-TOKEN)((\\)*["']?: *(\\)*["']?)[^[:space:]"'\\,]+/\1\4[redacted]/g
s/([Cc]ookie: *)[^"']*/\1[redacted]/g

# NAME=value, "name": "value", --name value, -u user:password. A value that begins as below is a placeholder.
s/((SECRET|[Ss]ecret|TOKEN|[Tt]oken|PASSWORD|[Pp]assword|PASSWD|[Pp]asswd|PASSPHRASE|[Pp]assphrase|(API|ACCESS|ACCOUNT|PRIVATE)_?KEY|([Aa]pi|[Aa]ccess|[Aa]ccount|[Pp]rivate)[_-]?[Kk]ey)["']? *= *)("[^"]*"|'[^']*'|[^][:space:]"',;&=$(<*[][^[:space:]"',;&]*)/\1[redacted]/g
s/((SECRET|[Ss]ecret|TOKEN|[Tt]oken|PASSWORD|[Pp]assword|PASSWD|[Pp]asswd|PASSPHRASE|[Pp]assphrase|(API|ACCESS|ACCOUNT|PRIVATE)_?KEY|([Aa]pi|[Aa]ccess|[Aa]ccount|[Pp]rivate)[_-]?[Kk]ey)(\\)*["'] *: *(\\)*["'])[^"'\\[][^"'\\]*/\1[redacted]/g
s/(--([a-z]+-)*(secret|token|password|passphrase|(api|access|account|private)-key) +)[^][:space:]$<*[-][^[:space:]]*/\1[redacted]/g
s/((^|[[:space:]])(-u|--user) +["']?[^:[:space:]"']+:)[^[:space:]"']+/\1[redacted]/g
# Signed URLs
s/([?&](X-Amz-Signature|X-Amz-Security-Token|X-Goog-Signature|[Ss]ignature|sig)=)[^&[:space:]"']+/\1[redacted]/g

# JSON Web Tokens; GitHub, GitLab, AWS, Google, Slack, npm, PyPI, Docker, DigitalOcean, Vault, Standard Webhooks, Stripe
# and others with sk-
s/eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*/[redacted]/g
s/gh[pousr]_[A-Za-z0-9]{30,}/[redacted]/g
s/github_pat_[A-Za-z0-9_]{20,}/[redacted]/g
s/gl(pat|agent|cbt|dt|ft|imt|oas|ptt|rt|soat)-[A-Za-z0-9_.-]{16,}/[redacted]/g
s/A[KS]IA[A-Z0-9]{16}/[redacted]/g
s/(AIza|ya29\.)[A-Za-z0-9_-]{30,}/[redacted]/g
s/(xox[a-z]|xapp)-[A-Za-z0-9-]{10,}/[redacted]/g
s#(hooks\.slack\.com/services/)[A-Za-z0-9/]+#\1[redacted]#g
s/(npm|dckr_pat|dckr_oat|do[opr]_v1|whsec|[sr]k_live|[sr]k_test)_[A-Za-z0-9+/=_-]{20,}/[redacted]/g
s/(pypi-|hv[bsr]\.)[A-Za-z0-9_-]{20,}/[redacted]/g
s/(^|[^A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,}/\1[redacted]/g

# Private keys: on one line, and then over several, to the end of the text if theirs is missing.
s/-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----.*-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----/[redacted]/g
/-----BEGIN [A-Z0-9 ]*PRIVATE KEY/,/-----END [A-Z0-9 ]*PRIVATE KEY/{
  # What was replaced before does not count for the next t.
  t begin
  :begin
  s/-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*/[redacted]/
  t
  s/.*-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----//
  t
  d
}
