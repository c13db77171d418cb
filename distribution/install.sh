#!/bin/sh
# Installs one side of checkvalve from this folder's files. Reaches no network. Called by the offline file.
set -eu
umask 022

usage() {
    cat <<'END'
Usage: sh checkvalve-VERSION-ARCH.run COMMAND [OPTIONS]

Commands:
  install     Install this version, or upgrade to it: settings, keys and state stay as they are. Where there are no
              settings yet, an example and a key are made.
  upgrade     The same.
  verify      Check this file's contents against SHA256SUMS, and its signature if there is a key.
  status      Say which versions are installed and which is in use.
  rollback    Go back to the version that was in use before.
  uninstall   Remove the program and its units; --purge removes settings, keys and state too.

Options:
  --side SIDE         sender or receiver
  --root DIR          Install below DIR, not /. Starts and makes nothing outside of it.
  --python PATH       Use this Python (3.11 to 3.13). The default: the newest that is found.
  --verify-key FILE   The release key's public half (PEM): refuse contents that it did not sign.
  --dry-run           Check everything and say what would be done.
  --purge             uninstall: settings, keys and state too. They do not come back.

Examples:
  sh checkvalve-0.1.0-x86_64.run install --side receiver --verify-key release.pub
  sh checkvalve-0.1.0-x86_64.run install --side sender --dry-run
  sh checkvalve-0.1.0-x86_64.run uninstall --side receiver
  sh checkvalve-0.1.0-x86_64.run --extract /tmp/checkvalve
END
}

fail() { echo "error: $1" >&2; exit "${2:-1}"; }
say() { echo "$1"; }

here=$(cd "$(dirname "$0")" && pwd)
version=$(cat "$here/VERSION")
command= side= root= python= key= dry= purge=

value() { [ $# -ge 2 ] && [ -n "$2" ] || fail "$1: needs a value; see --help" 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --side) value "$@"; side=$2; shift ;;
        --root) value "$@"; root=${2%/}; shift ;;
        --python) value "$@"; python=$2; shift ;;
        --verify-key) value "$@"; key=$2; shift ;;
        --dry-run) dry=yes ;;
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        install | upgrade | verify | status | rollback | uninstall)
            [ -z "$command" ] || fail "$1: one command at a time; see --help" 2
            command=$1 ;;
        *) fail "$1: not known; see --help" 2 ;;
    esac
    shift
done
[ -n "$command" ] || { usage >&2; exit 2; }
case $command in verify | status) ;; *)
    case $side in
        sender | receiver) ;;
        *) fail "--side ${side:-(nothing)}: expected sender or receiver" 2 ;;
    esac ;;
esac
case $root in '' | /*) ;; *) fail "--root $root: expected an absolute path" 2 ;; esac
[ -z "$root" ] || [ -d "$root" ] || fail "--root $root: no such folder" 2
opt=$root/opt/checkvalve
units=$root/etc/systemd/system

# systemd is asked only about the host itself, and only where it runs.
live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

check_contents() {
    bad=$(cd "$here" && sha256sum --check --strict --quiet SHA256SUMS 2>&1) ||
        fail "this file is damaged or was tampered with: $(echo "$bad" | head -n 1)"
    # what no checksum covers is not installed either, and must not lie where pip looks
    listed=$(sed 's/^[0-9a-f]*  //' "$here/SHA256SUMS" | sort)
    found=$(cd "$here" && find . -type f ! -name 'SHA256SUMS*' | sed 's|^\./||' | sort)
    [ "$listed" = "$found" ] || fail "SHA256SUMS does not list just the files that are here; fetch the file anew"
    if [ -z "$key" ] && [ -e "$root/etc/checkvalve/release.pub" ]; then
        key=$root/etc/checkvalve/release.pub
    fi
    if [ -z "$key" ]; then
        say "warning: signature not checked: give --verify-key, or put the key into /etc/checkvalve/release.pub" >&2
        return
    fi
    [ -r "$key" ] || fail "--verify-key $key: cannot be read" 2
    [ -e "$here/SHA256SUMS.sig" ] || fail "this file is not signed, and $key is to verify it"
    command -v openssl >/dev/null || fail "openssl is not installed, and the signature cannot be checked without"
    openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$here/SHA256SUMS" -sigfile "$here/SHA256SUMS.sig" \
        >/dev/null 2>&1 || fail "the signature of SHA256SUMS is not of $key; do not install this file"
    say "signature: good"
}

minor_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# A python that has no venv module or no 64-bit platform of ours is passed over, and named if nothing else is found.
find_python() {
    seen= chosen=
    for candidate in ${python:-python3.13 python3.12 python3.11 python3}; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        minor=$(minor_of "$path") || continue
        case $minor in
            3.11 | 3.12 | 3.13) ;;
            *) seen="$seen $path is $minor;"; continue ;;
        esac
        "$path" -c 'import venv, ssl, sqlite3' 2>/dev/null || { seen="$seen $path lacks venv, ssl or sqlite3;"; continue; }
        chosen=$path
        break
    done
    [ -n "$chosen" ] ||
        fail "unsupported Python on this host: need 3.11, 3.12 or 3.13 with venv; found:${seen:- none}"
    python=$chosen
    machine=$("$python" -c 'import platform; print(platform.machine())')
    [ "$machine" = "$(cat "$here/ARCH")" ] || fail "this file is for $(cat "$here/ARCH"), and this host is $machine"
}

# Puts $1 to $2, if it differs. The new file is whole before it has its name.
put() {
    cmp -s "$1" "$2" && return
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new" && chmod "${3:-644}" "$2.new" && mv "$2.new" "$2"
    changed=yes
}

point() { # $1 = name, $2 = where to; never a moment without a link
    [ "$(readlink "$1" 2>/dev/null)" = "$2" ] && return
    ln -sfn "$2" "$1.new" && mv -T "$1.new" "$1"
    changed=yes
}

sums_of() { (cd "$1" && find . -type f ! -name '*.pyc' ! -name '.complete*' -exec sha256sum {} + | sort -k 2); }

# A version's folder gets its name when it is complete, so an install that stopped midway leaves nothing to run.
make_version() {
    goal=$opt/$side/versions/$version
    [ -e "$goal/.complete" ] && cmp -s "$goal/.contents" "$here/SHA256SUMS" && return
    [ ! -e "$goal/.complete" ] || fail "$goal: is version $version already, of other contents; uninstall it first"
    rm -rf "$goal"
    mkdir -p "$opt/$side/versions"
    trap 'rm -rf "$goal"' EXIT
    trap 'exit 1' HUP INT TERM
    "$python" -m venv --without-pip "$goal"
    # pip out of its wheel: Debian's python3 has no ensurepip
    PIP_CONFIG_FILE=/dev/null PYTHONPATH=$(echo "$here"/wheels/pip-*.whl) "$goal/bin/python" -m pip install --quiet \
        --isolated --no-index --no-cache-dir --no-deps --require-hashes --disable-pip-version-check --find-links "$here/wheels" \
        --requirement "$here/requirements/$side.txt" || fail "pip could not install $version; the old version stays in use"
    mkdir -p "$goal/share/checkvalve" # a rollback puts back the units and documents that belong to the version
    cp -R "$here/systemd" "$here/doc" "$here/sbom.cdx.json" "$goal/share/checkvalve/"
    cp "$here/SHA256SUMS" "$goal/.contents"
    sums_of "$goal" >"$goal/.complete.new"
    sync -f "$goal" 2>/dev/null || sync
    mv "$goal/.complete.new" "$goal/.complete"
    trap - EXIT HUP INT TERM
    changed=yes
}

put_files() { # $1 = a folder with systemd/ and doc/
    for file in "$units"/checkvalve*; do # what this version has no more
        name=$(basename "$file")
        [ ! -f "$file" ] || ! of_side "$name" || [ -e "$1/systemd/$name" ] || { rm -f "$file"; changed=yes; }
    done
    for file in "$1"/systemd/*; do
        [ -f "$file" ] && of_side "$(basename "$file")" && put "$file" "$units/$(basename "$file")"
    done
    for file in "$1"/systemd/sysusers.d/*-"$side".conf; do put "$file" "$root/usr/lib/sysusers.d/$(basename "$file")"; done
    for file in "$1"/systemd/tmpfiles.d/*-"$side".conf; do put "$file" "$root/usr/lib/tmpfiles.d/$(basename "$file")"; done
    for file in "$1"/systemd/sysctl.d/*-"$side".conf; do
        [ ! -e "$file" ] || put "$file" "$root/etc/sysctl.d/$(basename "$file")"
    done
    for file in "$1"/systemd/examples/*; do
        [ ! -e "$file" ] || put "$file" "$opt/share/doc/checkvalve/examples/$(basename "$file")"
    done
    for file in "$1"/doc/*; do put "$file" "$opt/share/doc/checkvalve/$(basename "$file")"; done
    mkdir -p "$opt/bin"
    wrapper=$(mktemp)
    cat >"$wrapper" <<END
#!/bin/sh
exec /opt/checkvalve/$side/current/bin/python -I -m $side "\$@"
END
    put "$wrapper" "$opt/bin/checkvalve-$side" 755
    rm -f "$wrapper"
}

of_side() { # is unit $1 one of this side's?
    case $1 in
        checkvalve.slice) return 0 ;;
        checkvalve-fetch.* | checkvalve-transmit.* | checkvalve-sender.* | checkvalve-neighbour@*) [ "$side" = sender ] ;;
        checkvalve-capture.* | checkvalve-publish.* | checkvalve-receiver.*) [ "$side" = receiver ] ;;
        *) return 1 ;;
    esac
}

make_users() {
    user=checkvalve-$side
    if ! grep -q "^$user:" "$root/etc/passwd" 2>/dev/null; then
        if command -v systemd-sysusers >/dev/null; then
            systemd-sysusers ${root:+--root="$root"} "$root/usr/lib/sysusers.d/$user.conf"
        else
            useradd ${root:+--root "$root"} --system --user-group --no-create-home \
                --home-dir "/var/lib/$user" --shell /usr/sbin/nologin "$user"
        fi
        changed=yes
    fi
    ids=$(sed -n "s/^$user:[^:]*:\([0-9]*:[0-9]*\):.*/\1/p" "$root/etc/passwd")
    [ -n "$ids" ] || fail "user $user was not made; see the messages above"
    mkdir -p "$root/etc/checkvalve/keys" "$root/var/lib/$user"
    chmod 755 "$root/etc/checkvalve"
    chmod 755 "$root/etc/checkvalve/keys" # public halves are for the services, which see private ones as credentials
    chown "$ids" "$root/var/lib/$user"
    chmod 750 "$root/var/lib/$user"
}

# An example to edit and a key, only where nothing is; init overwrites nothing either.
make_settings() {
    [ ! -e "$root/etc/checkvalve/$side.yaml" ] || return 0
    "$opt/$side/current/bin/python" -I -m "$side" init "$root/etc/checkvalve" --state "/var/lib/checkvalve-$side" |
        sed '/^next:/,$d'
    chown "0:${ids#*:}" "$root/etc/checkvalve/$side.yaml"
    chmod 640 "$root/etc/checkvalve/$side.yaml"
    changed=yes
}

in_use() { readlink "$opt/$side/current" 2>/dev/null | sed 's|.*/||'; }

# The roles of a side share a journal, which a new version migrates when it starts. So the one that can wait stops
# before the change and starts last. The other one is restarted in one go, and what arrives for capture meanwhile
# waits in systemd's socket, which stays. Services that do not run are not started.
case $side in sender) first=transmit second=fetch ;; *) first=capture second=publish ;; esac
held=

hold_second() {
    [ -n "$changed" ] && live && systemctl is-active --quiet "checkvalve-$second.service" || return 0
    held=yes
    trap 'systemctl start --no-block "checkvalve-$second.service"' EXIT # whatever fails from here on
    systemctl stop "checkvalve-$second.service"
}

restart() {
    live || return 0
    systemctl daemon-reload
    # systemd's own, as small hosts have no sysctl(8); a container may have none of them to set, and doctor says so
    /lib/systemd/systemd-sysctl "/etc/sysctl.d/90-checkvalve-$side.conf" 2>/dev/null || :
    systemctl try-restart "checkvalve-$first.service" ||
        say "warning: checkvalve-$first does not start; see: journalctl -u checkvalve-$first" >&2
    [ -n "$held" ] || return 0
    trap - EXIT
    systemctl start "checkvalve-$second.service" ||
        say "warning: checkvalve-$second does not start; see: journalctl -u checkvalve-$second" >&2
}

do_install() {
    check_contents
    find_python
    before=$(in_use)
    say "python: $python ($minor)"
    if [ -n "$dry" ]; then
        say "would install checkvalve $side $version to $opt (in use now: ${before:-none})"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "installing needs root"
    if [ -n "$before" ] && [ "$before" != "$version" ] &&
        [ "$(printf '%s\n%s\n' "$before" "$version" | sort -V | tail -n 1)" = "$before" ]; then
        fail "$before is in use and is newer than $version, whose program cannot read newer state; see rollback"
    fi
    changed=
    make_version
    hold_second
    put_files "$here"
    make_users
    [ -z "$before" ] || [ "$before" = "$version" ] || point "$opt/$side/previous" "versions/$before"
    point "$opt/$side/current" "versions/$version"
    make_settings
    if [ -z "$changed" ]; then
        say "checkvalve $side $version is installed already; nothing changed"
        return
    fi
    restart
    say "checkvalve $side $version is installed${before:+; before it: $before}"
    [ -n "$before" ] || cat <<END
next:
  1. edit /etc/checkvalve/$side.yaml; /opt/checkvalve/bin/checkvalve-$side check
  2. /opt/checkvalve/bin/checkvalve-$side units --write && systemctl daemon-reload
  3. systemctl enable --now checkvalve-$side.target
All of it: /opt/checkvalve/share/doc/checkvalve/OPERATIONS.md
END
}

do_rollback() {
    before=$(in_use)
    goal=$(readlink "$opt/$side/previous") || fail "no earlier version of the $side is installed"
    [ -e "$opt/$side/$goal/.complete" ] || fail "$opt/$side/$goal: is not complete"
    if [ -n "$dry" ]; then say "would go back from $before to ${goal##*/}"; return; fi
    changed=yes
    hold_second
    put_files "$opt/$side/$goal/share/checkvalve"
    point "$opt/$side/previous" "versions/$before"
    point "$opt/$side/current" "$goal"
    restart
    say "checkvalve $side ${goal##*/} is in use again; before it: $before"
}

do_status() {
    for one in ${side:-sender receiver}; do
        side=$one
        current=$(in_use)
        [ -n "$current" ] || { say "$side: not installed"; continue; }
        folder=$opt/$side/versions/$current
        if [ "$(sums_of "$folder")" = "$(cat "$folder/.complete")" ]; then state=unchanged; else state=CHANGED; fi
        say "$side: $current in use, its files are $state; installed: $(cd "$opt/$side/versions" && echo *)"
        [ "$state" = unchanged ] || wrong=yes
    done
    [ -z "${wrong:-}" ] || fail "installed files are not what was installed; install the version again"
}

do_uninstall() {
    if [ -n "$dry" ]; then say "would remove the $side from $opt${purge:+, and its settings, keys and state}"; return; fi
    if live; then
        case $side in sender) names='fetch.service transmit.service' ;; *) names='capture.socket capture.service publish.service' ;; esac
        for name in $names "$side.target"; do systemctl disable --quiet --now "checkvalve-$name" 2>/dev/null || :; done
    fi
    for file in "$here"/systemd/*; do
        name=$(basename "$file")
        [ "$name" = checkvalve.slice ] || ! of_side "$name" || rm -rf "${units:?}/$name" "${units:?}/$name.d/50-checkvalve.conf"
    done
    rm -f "$root/usr/lib/sysusers.d/checkvalve-$side.conf" "$root/usr/lib/tmpfiles.d/checkvalve-$side.conf"
    rm -f "$root"/etc/sysctl.d/*-checkvalve-"$side".conf "$opt/bin/checkvalve-$side"
    rm -rf "${opt:?}/$side"
    if [ ! -d "$opt/sender" ] && [ ! -d "$opt/receiver" ]; then rm -rf "${opt:?}" "$units/checkvalve.slice"; fi
    if [ -n "$purge" ]; then
        rm -rf "${root}/var/lib/checkvalve-$side" "$root/etc/checkvalve/$side.yaml" "$root/etc/checkvalve/keys/$side.pem"
    fi
    ! live || systemctl daemon-reload
    if [ -n "$purge" ]; then say "the $side is removed, with its settings, key and state"
    else say "the $side is removed; kept: /etc/checkvalve, /var/lib/checkvalve-$side"; fi
}

case $command in
    install | upgrade) do_install ;;
    verify) check_contents; say "contents: as in SHA256SUMS" ;;
    status) do_status ;;
    rollback) do_rollback ;;
    uninstall) do_uninstall ;;
esac
