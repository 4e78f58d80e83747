# shellcheck shell=bash
# What the scripts share: a Python environment, and Debian's packages. Sourced, not run.

# python_for_venv: print a Python of at least 3.10 that can make virtual environments.
python_for_venv() {
    local python
    for python in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

# python_env FOLDER PIP-ARGUMENT…: a virtual environment with these requirements, made anew when they have changed.
python_env() {
    local folder=$1 python wanted argument
    shift
    if ! python=$(python_for_venv); then
        debian_packages python3-venv
        python=$(python_for_venv) || { echo 'Python 3.10 or later is needed, with venv.' >&2; return 1; }
    fi
    wanted="$("$python" -V) $folder $*"
    for argument; do
        [ ! -f "$argument" ] || wanted+=" $(cat "$(dirname "$argument")"/requirements*.txt | cksum)"
    done
    [ "$(cat "$folder/.wanted" 2>/dev/null)" != "$wanted" ] || return 0
    echo "Installing into $folder, once: $*" >&2
    rm -rf "$folder"
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$wanted" >"$folder/.wanted"
}

# debian_packages PACKAGE…: install those that are missing, as root or through sudo.
debian_packages() {
    local missing=() package root=()
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        root=(sudo -n)
        if ! sudo -n true 2>/dev/null; then
            echo "Debian packages are missing, and neither root nor sudo without a password is at hand; as root, run:" >&2
            echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
            return 1
        fi
    fi
    echo "Installing Debian packages, once: ${missing[*]}" >&2
    "${root[@]}" apt-get update -qq
    # The tests make instances and clusters of their own: Redmine's and PostgreSQL's default ones are not wanted.
    echo 'redmine redmine/instances/default/dbconfig-install boolean false' | "${root[@]}" debconf-set-selections
    if ! "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null; then
        redmine_mended "${root[@]}"
    fi
}

# redmine_mended [sudo -n]: finish the set-up of Debian 12's package redmine, which fails in lean containers: its Bundler
# takes a gem to be missing whose (empty) folder is not there.
redmine_mended() {
    local folder
    command -v ruby >/dev/null || return 1
    ruby -e 'Gem::Specification.each { |s| puts s.full_gem_path unless File.directory?(s.full_gem_path) }' |
        grep rubygems-integration | while read -r folder; do "$@" mkdir -p "$folder"; done
    "$@" rm -f /var/lib/redmine/Gemfile.lock
    "$@" env DEBIAN_FRONTEND=noninteractive dpkg --configure -a >/dev/null
}
