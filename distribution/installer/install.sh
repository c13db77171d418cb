#!/bin/sh
# Installs one side of checkvalve on a host that has no network. Everything it needs is beside it.
#
# /opt/checkvalve/SIDE/versions/VERSION  a Python environment; /opt/checkvalve/SIDE/current leads to the one in use
# /opt/checkvalve/bin/checkvalve-SIDE    the program, wherever it is
# /etc/checkvalve, /var/lib/checkvalve-SIDE  settings, keys and state: made once, never overwritten
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
version=$(cat "$here/VERSION")
command=
side=
root=
verify_key=
dry_run=
purge=
packaged=
changed=

usage() {
    cat <<'END'
Usage: install.sh COMMAND --side sender|receiver [OPTIONS]

Commands:
  install     put this version on the host; a second time it changes nothing
  upgrade     the same, and restart the services that run; settings and state stay
  rollback    go back to the version before this one
  uninstall   remove program and units; settings, keys and state stay unless --purge
  status      what is installed, and whether its files are as they were installed
  verify      compare this file with its checksums and signature; touch nothing

Options:
  --side SIDE          sender (connected) or receiver (isolated)
  --verify-key FILE    the release's public key (PEM); default: /etc/checkvalve/release.pub, if it is there
  --root DIR           install below DIR: for images and tests; makes no users, talks to no systemd
  --dry-run            say what would be done
  --purge              with uninstall: remove settings, keys and state too
  -h, --help           this text

Examples:
  sh checkvalve-0.1.0-x86_64.run verify --verify-key release.pub
  sh checkvalve-0.1.0-x86_64.run install --side receiver
  sh checkvalve-0.2.0-x86_64.run upgrade --side receiver
  sh checkvalve-0.2.0-x86_64.run uninstall --side receiver
END
}

fail() {
    echo "error: $*" >&2
    exit 1
}

wrong() {
    echo "error: $*; see --help" >&2
    exit 2
}

say() {
    echo "$*"
}

# change TEXT: say what is being changed
change() {
    changed=yes
    say "$*"
}

# run COMMAND...: do it, or say it in a dry run
run() {
    if [ -n "$dry_run" ]; then
        say "would run: $*"
    else
        "$@"
    fi
}

real_host() {
    [ -z "$root" ] && [ "$(id -u)" = 0 ]
}

systemd_runs() {
    real_host && [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1
}

# --- what is in this file ---------------------------------------------------------------------------------------

check_sums() {
    (cd "$here" && sha256sum --quiet --check SHA256SUMS) >&2 ||
        fail "$here: the files named above are not what was released; copy the file again"
    listed=$(sed 's/^[0-9a-f]*  //' "$here/SHA256SUMS" | sort)
    there=$(cd "$here" && find . -type f ! -name SHA256SUMS ! -name SHA256SUMS.sig | sed 's,^\./,,' | sort)
    [ "$listed" = "$there" ] || fail "$here: holds files that SHA256SUMS does not name; unpack it again"
}

check_signature() {
    key=$verify_key
    [ -n "$key" ] || [ ! -f "$root/etc/checkvalve/release.pub" ] || key=$root/etc/checkvalve/release.pub
    if [ -z "$key" ]; then
        say "note: signature not looked at: no --verify-key, and no /etc/checkvalve/release.pub"
        return
    fi
    [ -f "$key" ] || fail "$key: no such key file; --verify-key names the release's public key"
    [ -f "$here/SHA256SUMS.sig" ] || fail "$here: is not signed, and $key asks for a signature"
    command -v openssl >/dev/null 2>&1 || fail "openssl is not installed: it is what looks at the signature"
    openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$here/SHA256SUMS" -sigfile "$here/SHA256SUMS.sig" \
        >/dev/null 2>&1 || fail "$here: the signature is not of $key; do not install this"
    say "signature good: $key"
}

# --- the host ---------------------------------------------------------------------------------------------------

find_python() {
    found=
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        has=$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        case $has in
        3.11 | 3.12 | 3.13)
            if "$path" -c 'import venv, ssl, sqlite3, ctypes' 2>/dev/null; then
                python=$path
                return
            fi
            found="$found, $path $has without venv, ssl, sqlite3 or ctypes"
            ;;
        *) found="$found, $path $has" ;;
        esac
    done
    found=${found#, }
    fail "no Python 3.11, 3.12 or 3.13 here (found: ${found:-none}); Debian 12 and later: python3, RHEL 9: python3.11"
}

make_user() {
    real_host || return 0
    getent passwd "checkvalve-$side" >/dev/null && return
    change "user checkvalve-$side"
    if command -v systemd-sysusers >/dev/null 2>&1; then
        run systemd-sysusers "$here/systemd/sysusers.d/checkvalve-$side.conf"
    else
        run useradd --system --user-group --home-dir "/var/lib/checkvalve-$side" --shell /usr/sbin/nologin "checkvalve-$side"
    fi
}

# put SOURCE TARGET MODE: copy if it differs, durably by rename
put() {
    if ! cmp -s "$1" "$2"; then
        change "$2"
        if [ -z "$dry_run" ]; then
            mkdir -p "$(dirname -- "$2")"
            cp -- "$1" "$2.new"
            chmod "$3" "$2.new"
            mv -- "$2.new" "$2"
        fi
    fi
    [ -n "$dry_run" ] || echo "$(sha256sum <"$2" | cut -d' ' -f1)  ${2#"$root"}" >>"$manifest.new"
}

# Where files of this side, and those of both, go on the host. SIDE files are listed in units/SIDE.
put_files() {
    units=$root/etc/systemd/system
    [ -z "$packaged" ] || units=$root/lib/systemd/system
    while read -r file; do
        case $file in
        *.d/*) put "$here/systemd/$file" "$root/etc/$file" 644 ;;
        *) put "$here/systemd/$file" "$units/$file" 644 ;;
        esac
    done <"$here/systemd/$side.files"
    for file in "$here"/doc/*; do
        put "$file" "$root/opt/checkvalve/share/doc/checkvalve/$(basename -- "$file")" 644
    done
}

make_environment() {
    target=$base/versions/$version
    if [ -f "$target/.complete" ] && cmp -s "$here/SHA256SUMS" "$target/.complete"; then
        return
    fi
    change "$target (Python: $python)"
    [ -z "$dry_run" ] || return 0
    rm -rf -- "$target"
    mkdir -p "$target"
    "$python" -I -m venv --without-pip "$target"
    pip=$(ls "$here"/pip/pip-*.whl)
    "$target/bin/python" -I "$pip/pip" --isolated --quiet --disable-pip-version-check install --no-index --no-cache-dir \
        --no-compile --require-hashes --only-binary=:all: --find-links "$here/wheels" \
        --requirement "$here/requirements-$side.txt" ||
        fail "$target: the wheels could not be installed; nothing in use was changed"
    "$target/bin/python" -I -m compileall -q "$target/lib" >/dev/null || true
    cp -- "$here/sbom.cdx.json" "$target/sbom.cdx.json"
    cp -- "$here/SHA256SUMS" "$target/.complete"
    sync -- "$target/.complete" 2>/dev/null || sync
}

# lead NAME TARGET: replace a link in one step
lead() {
    [ "$(readlink -- "$1" 2>/dev/null)" = "$2" ] && return 0
    change "$1 -> $2"
    [ -z "$dry_run" ] || return 0
    mkdir -p "$(dirname -- "$1")"
    rm -f -- "$1.new"
    ln -s -- "$2" "$1.new"
    mv -T -- "$1.new" "$1"
}

make_config() {
    etc=$root/etc/checkvalve
    [ ! -e "$etc/$side.yaml" ] || return 0
    change "$etc/$side.yaml (an example: edit it)"
    [ -z "$dry_run" ] || return 0
    mkdir -p "$etc/keys"
    "$root/opt/checkvalve/bin/checkvalve-$side" init "$etc" --state "/var/lib/checkvalve-$side" >"$base/init.log" ||
        fail "$etc: could not be filled: $(cat "$base/init.log")"
    cat "$base/init.log"
    rm -f "$base/init.log"
}

own() {
    real_host && [ -z "$dry_run" ] || return 0
    install -d -m 0750 -o "checkvalve-$side" -g "checkvalve-$side" "/var/lib/checkvalve-$side"
    chmod 0755 /etc/checkvalve /etc/checkvalve/keys
    chgrp "checkvalve-$side" "/etc/checkvalve/$side.yaml"
    chmod 0640 "/etc/checkvalve/$side.yaml"
    [ ! -f /etc/checkvalve/images.yaml ] || chmod 0644 /etc/checkvalve/images.yaml
}

# --- commands ---------------------------------------------------------------------------------------------------

settings_of_side() {
    case $side in
    sender) services="checkvalve-fetch.service checkvalve-transmit.service" ;;
    receiver) services="checkvalve-publish.service checkvalve-capture.service" ;;
    esac
    base=$root/opt/checkvalve/$side
    manifest=$base/installed
}

need_root() {
    [ -n "$root" ] || [ -n "$dry_run" ] || [ "$(id -u)" = 0 ] || fail "not root: $1 writes to /opt, /etc and /var/lib"
}

do_install() {
    need_root install
    check_sums
    check_signature
    find_python
    former=$(readlink -- "$base/current" 2>/dev/null || true)
    [ -n "$dry_run" ] || mkdir -p "$base"
    [ -n "$dry_run" ] || rm -f "$manifest.new"
    make_user
    make_environment
    put_files
    lead "$base/current" "versions/$version"
    if [ -n "$former" ] && [ "$former" != "versions/$version" ]; then
        lead "$base/previous" "$former"
    fi
    lead "$root/opt/checkvalve/bin/checkvalve-$side" "../$side/current/bin/checkvalve-$side"
    make_config
    own
    if [ -z "$dry_run" ]; then
        forget_old_files
        mv -- "$manifest.new" "$manifest"
    fi
    prune_versions
    if systemd_runs; then
        run systemctl daemon-reload
        # small hosts have no sysctl; systemd has a program of its own for the folder
        tuning=/etc/sysctl.d/90-checkvalve-$side.conf
        [ ! -f "$tuning" ] || run /lib/systemd/systemd-sysctl "$tuning" || true
    fi
}

# What a former version installed and this one has not: away with it.
forget_old_files() {
    [ -f "$manifest" ] || return 0
    sed 's/^[0-9a-f]*  //' "$manifest" | while read -r path; do
        grep -qF "  $path" "$manifest.new" || rm -f -- "$root$path"
    done
}

# The version in use and the one before it stay.
prune_versions() {
    [ -d "$base/versions" ] || return 0
    for path in "$base"/versions/*; do
        case versions/$(basename -- "$path") in
        "$(readlink -- "$base/current" 2>/dev/null)" | "$(readlink -- "$base/previous" 2>/dev/null)") ;;
        *)
            say "$path removed"
            run rm -rf -- "$path"
            ;;
        esac
    done
}

restart_services() {
    systemd_runs || return 0
    for service in $services; do
        if systemctl is-active --quiet "$service"; then
            say "restarting $service"
            run systemctl restart "$service"
        fi
    done
}

do_rollback() {
    need_root rollback
    former=$(readlink -- "$base/previous" 2>/dev/null) || fail "$base: no version before this one is here"
    [ -f "$base/$former/.complete" ] || fail "$base/$former: is not complete"
    now=$(readlink -- "$base/current")
    lead "$base/current" "$former"
    lead "$base/previous" "$now"
    restart_services
    say "checkvalve-$side ${former#versions/} is in use again"
}

do_uninstall() {
    need_root uninstall
    [ -d "$base" ] || fail "$base: checkvalve-$side is not installed here"
    if systemd_runs; then
        # shellcheck disable=SC2086 # a list of words
        run systemctl disable --now "checkvalve-$side.target" $services 2>/dev/null || true
        [ "$side" = sender ] || run systemctl disable --now checkvalve-capture.socket 2>/dev/null || true
    fi
    if [ -f "$manifest" ]; then
        sed 's/^[0-9a-f]*  //' "$manifest" | while read -r path; do
            shared "$path" || run rm -f -- "$root$path"
        done
    fi
    run rm -rf -- "$base"
    run rm -f -- "$root/opt/checkvalve/bin/checkvalve-$side"
    run rmdir -p --ignore-fail-on-non-empty -- "$root/opt/checkvalve/bin" 2>/dev/null || true
    ! systemd_runs || run systemctl daemon-reload
    if [ -n "$purge" ]; then
        say "removing settings, keys and state"
        run rm -rf -- "$root/var/lib/checkvalve-$side" "$root/etc/checkvalve/$side.yaml" \
            "$root/etc/checkvalve/keys/$side.pem" "$root/etc/checkvalve/keys/$side.pub"
    else
        say "kept: $root/etc/checkvalve, $root/var/lib/checkvalve-$side"
    fi
}

# Whether the other side, on the same host, needs the file too.
shared() {
    for other in "$root"/opt/checkvalve/*/installed; do
        [ "$other" = "$manifest" ] || ! grep -qsF "  $1" "$other" || return 0
    done
    return 1
}

do_status() {
    current=$(readlink -- "$base/current" 2>/dev/null) || fail "$base: checkvalve-$side is not installed here"
    say "checkvalve-$side ${current#versions/} in use"
    former=$(readlink -- "$base/previous" 2>/dev/null) && say "before it: ${former#versions/}"
    [ -f "$base/$current/.complete" ] || fail "$base/$current: is not complete; install it again"
    bad=$(while read -r sum path; do
        [ "$sum" = "$(sha256sum <"$root$path" 2>/dev/null | cut -d' ' -f1)" ] || echo "changed or gone: $root$path"
    done <"$manifest")
    [ -z "$bad" ] || {
        echo "$bad" >&2
        fail "these are not as they were installed"
    }
    say "all files are as they were installed"
}

# --- arguments --------------------------------------------------------------------------------------------------

while [ $# -gt 0 ]; do
    case $1 in
    install | upgrade | rollback | uninstall | status | verify) command=$1 ;;
    --side | --root | --verify-key)
        [ $# -gt 1 ] || wrong "$1 needs a value"
        case $1 in
        --side) side=$2 ;;
        --root) root=$2 ;;
        --verify-key) verify_key=$2 ;;
        esac
        shift
        ;;
    --dry-run) dry_run=yes ;;
    --purge) purge=yes ;;
    --packaged) packaged=yes ;; # by dpkg: units lie where packages have theirs
    -h | --help)
        usage
        exit 0
        ;;
    *) wrong "$1: not known" ;;
    esac
    shift
done
[ -n "$command" ] || wrong "no command; install, for example"
if [ "$command" = verify ]; then
    check_sums
    check_signature
    say "checkvalve $version is whole"
    exit 0
fi
case $side in
sender | receiver) ;;
'') wrong "--side: give sender or receiver" ;;
*) wrong "--side: $side is neither sender nor receiver" ;;
esac
[ -z "$root" ] || root=$(mkdir -p -- "$root" && CDPATH='' cd -- "$root" && pwd)
settings_of_side

case $command in
install | upgrade)
    do_install
    [ "$command" = install ] || restart_services
    if [ -n "$changed" ]; then
        say ""
        say "checkvalve-$side $version is installed. Next: edit /etc/checkvalve/$side.yaml, then"
        say "  /opt/checkvalve/bin/checkvalve-$side check && /opt/checkvalve/bin/checkvalve-$side units --write"
        say "  systemctl daemon-reload && systemctl enable --now checkvalve-$side.target"
        say "All of it is described in /opt/checkvalve/share/doc/checkvalve/OPERATIONS.md."
    else
        say "checkvalve-$side $version is installed already; nothing was changed"
    fi
    ;;
rollback) do_rollback ;;
uninstall) do_uninstall ;;
status) do_status ;;
esac
