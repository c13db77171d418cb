#!/bin/sh
# checkvalve, for hosts without a network: this text, then a tar. `sh FILE --help` says what it does.
set -eu
fail() { echo "error: $1" >&2; exit 1; }
unpack() { LC_ALL=C sed '1,/^exit #TAR$/d' "$self" | tar -xf - -C "$1" || fail "$self: cannot be unpacked into $1: damaged, or no room"; }
self=$0
if [ "${1:-}" = --extract ]; then
    [ $# -eq 2 ] || fail "--extract: expected one folder, as in: sh $0 --extract DIR"
    mkdir -p "$2"
    [ -z "$(ls -A "$2")" ] || fail "--extract $2: the folder is not empty"
    unpack "$2"
    echo "extracted to $2; next: sh $2/install.sh --help"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
unpack "$folder"
sh "$folder/install.sh" "$@"
exit #TAR
