#!/usr/bin/env bash
# Creates the files that deploy/ and docker-compose.yml use: authorities and certificates for NATS, PostgreSQL's passwords,
# a secret to sign callbacks with, and the console's token. Existing files stay as they are.
#
#   deploy/secrets.sh [DIR] [NAME...]     DIR is deploy/secrets by default; NAMEs are added to the NATS certificate
#   deploy/secrets.sh --renew [DIR] [NAME...]   issues the certificates again, by the same authorities and for the same names
#
# ca.key and cluster-ca.key sign new certificates: keep them on a machine where nothing else runs. Containers read the other
# files as a user who owns nothing here, so the files are readable to all, and the folder is not.
set -euo pipefail
umask 022

renew=
if [[ ${1:-} == --renew ]]; then
    renew=1
    shift
fi
dir=${1:-$(dirname "${BASH_SOURCE[0]}")/secrets}
shift || true

die() {
    echo "deploy/secrets.sh: $*" >&2
    exit 1
}

# Validity of an authority and of a certificate, in days.
authority_days=3650
certificate_days=730

command -v openssl >/dev/null || die "openssl was not found (Debian, Ubuntu: apt-get install openssl)."
names=DNS:nats-1,DNS:nats-2,DNS:nats-3,DNS:nats,DNS:localhost,IP:127.0.0.1
if [[ $renew && -e $dir/nats.crt ]]; then
    former=$(openssl x509 -in "$dir/nats.crt" -noout -ext subjectAltName | sed -n '2,$p' | tr -d ' ')
    names=${former//IPAddress:/IP:}
fi
for name in "$@"; do
    case $name in
        *[!A-Za-z0-9.:*-]* | '') die "\"$name\" is neither a host name nor an IP address." ;;
        *:*) names+=,IP:$name ;;
        *[!0-9.]*) names+=,DNS:$name ;;
        *) names+=,IP:$name ;;
    esac
done

# openssl reports progress on standard error, which matters only when it fails.
quietly() {
    "$@" 2>"$new/log" || {
        cat "$new/log" >&2
        die "this failed: $*"
    }
}

mkdir -p "$dir"
chmod 700 "$dir"
new=$(mktemp -d "$dir/new.XXXXXX")
trap 'rm -rf "$new"' EXIT

# Replaces an older file atomically, so that nobody reads half of it.
put() {
    mv "$new/$1" "$dir/$1"
    echo "$dir/$1"
}

key() {
    quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$new/$1"
}

authority() {
    [[ ! -e $dir/$1.crt ]] || return 0
    key "$1.key"
    openssl req -x509 -new -key "$new/$1.key" -days "$authority_days" -subj "/CN=Ackline $1" -out "$new/$1.crt" \
        -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign
    chmod 600 "$new/$1.key"
    put "$1.key"
    put "$1.crt"
}

# certificate AUTHORITY NAME USAGE [ALTERNATIVE NAMES]
certificate() {
    [[ -n $renew || ! -e $dir/$2.crt ]] || return 0
    [[ -e $dir/$1.key ]] || die "$dir/$1.key is missing, which signs $2.crt."
    key "$2.key"
    chmod 644 "$new/$2.key"
    cat >"$new/extensions" <<EXTENSIONS
basicConstraints = critical,CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = $3
${4:+subjectAltName = $4}
EXTENSIONS
    quietly openssl req -new -key "$new/$2.key" -subj "/CN=$2" -out "$new/request"
    quietly openssl x509 -req -in "$new/request" -CA "$dir/$1.crt" -CAkey "$dir/$1.key" \
        -set_serial "0x00$(openssl rand -hex 16)" -sha256 -days "$certificate_days" -extfile "$new/extensions" \
        -out "$new/$2.crt"
    put "$2.key"
    put "$2.crt"
}

secret() {
    [[ ! -e $dir/$1 ]] || return 0
    printf '%s%s\n' "$2" "$(openssl rand -hex 32)" >"$new/$1"
    put "$1"
}

authority ca
authority cluster-ca
certificate ca nats serverAuth "$names"
certificate cluster-ca cluster serverAuth,clientAuth "$names"
for role in ingress worker operator; do
    certificate ca "$role" clientAuth
done
secret postgres-password ''
secret postgres-worker-password ''
secret postgres-reader-password ''
secret callback-secrets default:
secret console-token ''
