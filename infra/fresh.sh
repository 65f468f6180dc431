#!/usr/bin/env bash
# Runs `make demo` and `make test` in a clone of HEAD with an empty home folder, empty caches and
# an empty Maven repository, and prints the time of each. `make fresh` calls it.
#
# Settings that a machine needs to reach its network stay in force: environment variables
# (proxies, certificates, package mirrors), Maven's settings.xml, and the configuration of pip
# and uv. FRESH names another folder than build/fresh; STREAMGAUGE_DATA the labelled public data.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
fresh="${FRESH:-$root/build/fresh}"
home="$fresh/home"
export STREAMGAUGE_DATA="${STREAMGAUGE_DATA:-$(dirname "$root")/shared/data}"
python="${PYTHON:-$(command -v python3.11 || command -v python3)}"
# A launcher such as pyenv's looks for its files in HOME, so the program itself is named.
PYTHON="$("$python" -c 'import sys; print(sys.executable)')"
export PYTHON

rm -rf "$fresh"
mkdir -p "$home"
git clone --quiet --no-hardlinks "$root" "$fresh/streamgauge"
for file in .m2/settings.xml .m2/settings-security.xml .config/pip/pip.conf .pip/pip.conf \
    .config/uv/uv.toml .netrc; do
    if [ -f "$HOME/$file" ]; then
        mkdir -p "$(dirname "$home/$file")"
        cp "$HOME/$file" "$home/$file"
    fi
done

export HOME="$home"
export XDG_CACHE_HOME="$home/.cache" XDG_CONFIG_HOME="$home/.config" XDG_DATA_HOME="$home/.local"
export PIP_CACHE_DIR="$home/.cache/pip" UV_CACHE_DIR="$home/.cache/uv"
# Maven takes the home folder from the password file, not from HOME.
export MAVEN_OPTS="${MAVEN_OPTS:-} -Dmaven.repo.local=$home/.m2/repository -Duser.home=$home"
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME NUMBA_CACHE_DIR MAKEFLAGS MAKELEVEL

cd "$fresh/streamgauge"
timed() {
    local start=$SECONDS code=0
    "$@" || code=$?
    echo "fresh: $* took $((SECONDS - start)) s and ended with $code"
    return $code
}
timed make env
timed make demo
timed make test
