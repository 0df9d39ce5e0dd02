#!/usr/bin/env bash
# deploy/image.sh BUILT DIR: makes the root folder of an image for each program that Cargo has built (BUILT is what it printed
# with --message-format json), as DIR/PROGRAM: the program without its debug information, the libraries that it loads, and
# what a program expects to find.
set -euo pipefail
umask 022

built=$1
images=$2

rm -rf "$images"
grep -o '"executable":"[^"]*"' "$built" | cut -d '"' -f 4 | while read -r program; do
    name=${program##*/}
    root=$images/$name
    mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/usr/share/doc/ackline"
    strip -o "$root/usr/local/bin/$name" "$program"
    # Each line names a library, or the loader itself, by its absolute path.
    ldd "$program" | grep -o '/[^ ]*' | sort -u | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    echo 'ackline:x:65532:65532::/:/nonexistent' >"$root/etc/passwd"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    cp LICENSE-MIT LICENSE-APACHE "$root/usr/share/doc/ackline/"
done
du -sk "$images"/*
