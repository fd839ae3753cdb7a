#!/bin/sh
# Makes .venv with the service, its tests and its benchmarks, pinned by constraints.txt. Does nothing if that is done.
#
# PYTHON       the interpreter to use; else the first of python3, python3.13, python3.12, python3.11 that fits
# TORCH_INDEX  an index with CPU-only builds of torch, for machines without an NVIDIA GPU
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# A virtual environment holds absolute paths: a checkout that was moved needs a new one.
wanted="$(cat pyproject.toml constraints.txt tools/setup.sh | cksum) $PWD"
stamp=.venv/.bitlane-setup
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
else
    set -- python3 python3.13 python3.12 python3.11
fi
python=
for candidate in "$@"; do
    if fits "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    say "Bitlane needs Python 3.11 or newer, and found none:"
    for candidate in "$@"; do
        say "  $candidate: $("$candidate" --version 2>/dev/null || echo absent)"
    done
    say "Install one, or name it: make setup PYTHON=/path/to/python3.12"
    exit 1
fi

usable() { fits .venv/bin/python && grep -qF "$PWD/.venv" .venv/pyvenv.cfg && .venv/bin/python -m pip --version; }
if ! usable >/dev/null 2>&1; then
    rm -rf .venv
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv .venv
    elif "$python" -c 'import venv' 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip .venv
        "$python" -m pip --python .venv/bin/python install -qq --disable-pip-version-check pip
    else
        say "$("$python" --version) cannot make virtual environments: its venv and ensurepip modules are missing."
        say "On Debian and Ubuntu: apt install python3-venv. Elsewhere: install a complete Python 3.11 or newer."
        rm -rf .venv
        exit 1
    fi
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }

say "Installing Bitlane into .venv with $("$python" --version). The first time takes a minute or two; torch is most of it."
rm -f "$stamp"
if [ -n "${TORCH_INDEX:-}" ]; then
    # Without dependencies: such an index also carries old copies of other packages.
    pip install -qq --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch
fi
pip install -qq -c constraints.txt -e '.[test,bench,vmaf]'

if [ -f package-lock.json ]; then
    if ! command -v npm >/dev/null 2>&1; then
        say "npm is not installed: tests that need the DynamoDB stand-in dynalite will be skipped."
    elif ! npm ci --no-audit --no-fund --no-update-notifier --loglevel=error >.venv/npm.log 2>&1; then
        say "npm could not install dynalite (see .venv/npm.log): tests that need it will be skipped."
    fi
fi
printf '%s' "$wanted" >"$stamp"
say "Done: .venv is ready."
