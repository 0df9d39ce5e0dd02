#!/usr/bin/env bash
# deploy/notices.sh BUILT: prints the licences of the packages that the programs consist of (BUILT is what Cargo has printed with
# --message-format json): each text once, below the packages that it came with.
set -euo pipefail
export LC_ALL=C

# By a text's digest: the packages that came with it, and one file that holds it; all of these, in the order in which they were found.
declare -A packages=() texts=()
keys=()

# came_with PACKAGE KEY
came_with() {
    [[ ${packages[$2]-} ]] || keys+=("$2")
    packages[$2]+=$1$'\n'
}

# The manifests of the packages from a registry, without those that only run while Cargo builds.
manifests() {
    grep '"reason":"compiler-artifact"' "$1" | grep -v '"kind":\["\(proc-macro\|custom-build\)"\]' |
        grep -o '"manifest_path":"[^"]*/registry/src/[^"]*"' | cut -d '"' -f 4 | sort -u
}

while read -r manifest; do
    folder=${manifest%/*}
    mapfile -t found < <(find "$folder" -type f ! -name '*.rs' \
        \( -iname '*licen[cs]e*' -o -iname 'copying*' -o -iname 'copyright*' -o -iname 'notice*' -o -ipath '*/licenses/*' \) | sort)
    for text in "${found[@]}"; do
        key=$(md5sum <"$text")
        texts[$key]=$text
        came_with "${folder##*/}" "$key"
    done
    if ((${#found[@]} == 0)); then
        # Its package holds no text. Every licence of this kind is beside this file.
        key=$(grep -m 1 '^license = ' "$manifest")
        came_with "${folder##*/}" "$key"
    fi
done < <(manifests "$1")

for key in "${keys[@]}"; do
    printf '%s\n\n' "${packages[$key]%$'\n'}"
    if [[ ${texts[$key]-} ]]; then
        cat "${texts[$key]}"
    else
        echo "$key"
    fi
    printf '\n%080d\n\n' 0 | tr 0 -
done
