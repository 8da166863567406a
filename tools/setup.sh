# Sourced by tools/test and tools/quickstart: the checkout's one environment, .venv, and its data.
# Defines `set_up`; sets ROOT (the checkout) and VENV.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
EXTRAS=tflite,micro,digits,postgres,dashboard,test
FASHION_MNIST=/usr/share/datasets/fashion-mnist

say() { printf '%s\n' "edgenas: $*" >&2; }

# The first of these that runs and is new enough; 3.11 is what the pins were tested with.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "needs Python 3.11 or newer on PATH (or its path in PYTHON)"
    return 1
}

# What the environment depends on: a set-up that is stamped with this value is up to date.
fingerprint() {
    "$1" - "$ROOT" "$EXTRAS" <<'PY'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
parts = [root / "pyproject.toml", root / "tools" / "constraints.txt"]
text = b"\0".join([*(p.read_bytes() for p in parts), *(a.encode() for a in sys.argv[1:])])
print(hashlib.sha256(text).hexdigest())
PY
}

make_venv() { # python
    say "making .venv with $("$1" --version)"
    if ! "$1" -m venv --clear "$VENV" >/dev/null 2>&1; then
        # Debian splits ensurepip off: take the pip that is there
        "$1" -m venv --clear --without-pip "$VENV"
        "$1" -m pip --python "$VENV/bin/python" install --quiet --disable-pip-version-check pip
    fi
}

install_packages() { # without byte code: most of it is never imported
    local log=$VENV/install.log
    say "installing edgenas and what it needs (1 to 2 GB, some minutes); log: $log"
    if ! (cd "$ROOT" && "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check \
        --no-compile --progress-bar off --constraint tools/constraints.txt --editable ".[$EXTRAS]") \
        >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        say "the installation failed; the log is $log"
        return 1
    fi
}

# Installs a Debian package as root, where that may be tried.
install_debian() { # package, whether to try
    if [ "$2" != yes ] || ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        return 1
    fi
    say "installing the Debian package $1"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y
        -o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120)
    {
        apt-cache show "$1" >/dev/null 2>&1 || "${apt[@]}" update
        "${apt[@]}" install --no-install-recommends "$1"
    } >>"$VENV/apt.log" 2>&1 </dev/null && return
    say "apt-get could not install it; the log is $VENV/apt.log"
    return 1
}

# Data; edgenas falls back to `digits` without.
install_data() { # whether to try
    if [ ! -d "$FASHION_MNIST" ] && ! install_debian dataset-fashion-mnist "$1"; then
        say "Fashion-MNIST is not installed (apt-get install dataset-fashion-mnist, as root);" \
            "the data set 'digits' takes its place where a command allows it"
    fi
}

# What tests reach devices, databases and pages with: servers on loopback, adb, a browser; they skip
# themselves without.
# Where systemd runs, the package would open a port to the world: there it is left to the user.
install_servers() { # whether to try
    local missing=() server=$1
    if [ -d /run/systemd/system ]; then server=no; fi
    if ! command -v sshd >/dev/null && [ ! -x /usr/sbin/sshd ] &&
        ! install_debian openssh-server "$server"; then
        missing+=(openssh-server)
    fi
    if ! command -v postgres >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null &&
        ! install_debian postgresql "$server"; then
        missing+=(postgresql)
    fi
    if ! command -v adb >/dev/null && ! install_debian adb "$1"; then
        missing+=(adb)
    fi
    if ! command -v chromium >/dev/null && ! install_debian chromium "$1"; then
        missing+=(chromium)
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        say "tests that need ${missing[*]} skip themselves (apt-get install ${missing[*]}, as root)"
    fi
}

set_up() {
    local python wanted stamp=$VENV/edgenas-setup new=no
    if "$VENV/bin/python" -c '' 2>/dev/null; then
        python=$VENV/bin/python
    else
        python=$(find_python)
        make_venv "$python"
    fi
    wanted=$(fingerprint "$VENV/bin/python")
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        new=yes
        install_packages
    fi
    install_data "$new"
    install_servers "$new"
    printf '%s\n' "$wanted" >"$stamp"
    say ".venv is ready"
}
