#!/usr/bin/env bash
# deploy/image.sh BUILT DIR: makes the root folder of each image, DIR/ingress and DIR/worker, from what Cargo has built (BUILT is
# what it printed with --message-format json): the image's programs without debug information, the libraries that they
# load, the files that a program expects, and the licences of all of it.
set -euo pipefail
umask 022

built=$1
images=$2

# image NAME PROGRAM...
image() {
    local root=$images/$1 program path library
    mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/usr/share/doc/ackline"
    for program in "${@:2}"; do
        path=$(grep -o '"executable":"[^"]*/'"$program"'"' "$built" | cut -d '"' -f 4)
        strip -o "$root/usr/local/bin/$program" "$path"
        # Each line names a library, or the loader itself, by its absolute path.
        ldd "$path" | grep -o '/[^ ]*' | sort -u | while read -r library; do
            mkdir -p "$root${library%/*}"
            cp -L "$library" "$root$library"
        done
    done
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    echo 'ackline:x:65532:65532::/:/nonexistent' >"$root/etc/passwd"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    cp LICENSE-MIT LICENSE-APACHE "$images/THIRD-PARTY-NOTICES" "$root/usr/share/doc/ackline/"
    # Of the C library and the compiler's.
    cp -L --parents /usr/share/doc/{libc6,libgcc-s1}/copyright "$root"
}

rm -rf "$images"
mkdir -p "$images"
deploy/notices.sh "$built" >"$images/THIRD-PARTY-NOTICES"
image ingress ackline-ingress
image worker ackline-worker ackline
du -sk "$images"/*
