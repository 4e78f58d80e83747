# Shared by the scripts here: get what they need, and say what is being got. Source it; it changes nothing by itself.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

# as_root COMMAND…: as root, or through sudo where that asks for no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 126
    fi
}

# again COMMAND…: up to three times, as a network or a mirror may fail for a moment.
again() {
    local pause
    for pause in 5 30; do
        "$@" && return
        say "That failed; trying again in $pause seconds: $*"
        sleep "$pause"
    done
    "$@"
}

# apt ARGUMENTS…: apt-get, which waits for whoever else installs just now.
apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@" >&2; }

have_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# debian_packages PACKAGE…: install those that are missing.
debian_packages() {
    local missing=() package
    for package in "$@"; do
        have_package "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null || ! as_root true; then
        say "These Debian packages are needed and missing: ${missing[*]}"
        say "Run this as root (or with passwordless sudo) on Debian or Ubuntu, or install them yourself."
        return 1
    fi
    say "Installing Debian packages: ${missing[*]}"
    again apt update && again apt install -y --no-install-recommends --download-only "${missing[@]}" || return
    apt install -y --no-install-recommends "${missing[@]}"
}

# unpacked PACKAGE…: the files of Debian packages in .cache/debian, without installing them.
unpacked() {
    local package folder got
    for package in "$@"; do
        folder=$root/.cache/debian/$package
        [ ! -e "$folder" ] || continue
        say "Getting the Debian package $package, to unpack it"
        got=$(mktemp -d)
        (
            cd "$got" || exit
            get=(apt-get -qq -o APT::Sandbox::User=root download "$package")
            { "${get[@]}" 2>/dev/null || { again apt update && again "${get[@]}"; }; } && dpkg-deb --extract ./*.deb files
        ) && mkdir -p "${folder%/*}" && mv "$got/files" "$folder"
        rm -rf "$got"
        [ -e "$folder" ] || return
    done
}

# redmine_package: Debian's Redmine. Its post-install step can fail, because Bundler takes a gem for deleted whose (empty)
# folder Debian's package of that gem does not ship: make the folders, and let dpkg finish.
redmine_package() {
    if have_package redmine && have_package redmine-sqlite && have_package puma; then
        return 0
    fi
    local log
    log=$(mktemp)
    say "Installing Redmine (redmine, redmine-sqlite, puma) from Debian: two minutes, once"
    # Its first try may end in a long Bundler error, which is mended below: shown only if that fails.
    if debian_packages redmine redmine-sqlite puma 2>"$log"; then
        rm -f "$log"
        return 0
    fi
    if [ ! -x /usr/bin/ruby ]; then
        cat "$log" >&2
        return 1
    fi
    say "Finishing the installation of Redmine: its gems' folders were missing."
    # shellcheck disable=SC2016
    as_root /usr/bin/ruby -rfileutils -e 'Gem::Specification.each do |gem|
        path = gem.full_gem_path
        FileUtils.mkdir_p(path) if !File.directory?(path) && path.include?("rubygems-integration")
    end' &&
        as_root rm -f /var/lib/redmine/Gemfile.lock &&
        as_root env DEBIAN_FRONTEND=noninteractive dpkg --configure -a >>"$log" 2>&1 &&
        have_package redmine && have_package redmine-sqlite && have_package puma && return 0
    cat "$log" >&2
    return 1
}

# find_python: the first Python of 3.10 or later that can make a virtual environment; its name in $python.
find_python() {
    local again
    for again in '' yes; do
        for python in python3 python3.13 python3.12 python3.11 python3.10; do
            "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && return 0
        done
        [ -n "$again" ] || debian_packages python3-venv || break
    done
    say 'Python 3.10 or later with venv is needed (on Debian and Ubuntu: apt install python3-venv).'
    return 1
}

# other_pythons: of the versions that setup.cfg declares, the oldest and the newest that run here and are not that of .venv, one
# a line. Those of pyenv count too: its python3.N on the PATH runs only where somebody has chosen that version.
other_pythons() {
    local minor python found=()
    for minor in $(sed -n 's/.*:: Python :: 3\.\([0-9][0-9]*\)$/\1/p' setup.cfg); do
        ! .venv/bin/python -c "import sys; sys.exit(sys.version_info[1] != $minor)" || continue
        for python in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"3.$minor".*/bin/python; do
            if "$python" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[1] != $minor)" 2>/dev/null; then
                found+=("$python")
                break
            fi
        done
    done
    [ ${#found[@]} -gt 0 ] || return 0
    printf '%s\n' "${found[0]}" "${found[@]: -1}" | uniq
}

# python_env FOLDER REQUIREMENTS [PYTHON]: a virtual environment with these requirements, made again when they have changed.
python_env() {
    local folder=$1 requirements=$2 python=${3:-} wanted
    [ -n "$python" ] || find_python || return
    wanted=$({
        "$python" -VV
        cat "$(dirname "$requirements")"/requirements-common.txt "$requirements" 2>/dev/null || :
    } | sha256sum)
    [ "$(cat "$folder/.wanted" 2>/dev/null)" != "$wanted" ] || return 0
    say "Installing $(grep -Em1 '^(salt|scrapyd)' "$requirements") and its tools into ${folder##*/} (a minute or two, once)"
    rm -rf "$folder"
    "$python" -m venv "$folder" || return
    again "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" || return
    printf '%s\n' "$wanted" >"$folder/.wanted"
}
