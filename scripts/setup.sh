#!/usr/bin/env bash
# Makes the environment and is idempotent: the conda environment `qlib` where conda or mamba exists, otherwise `.venv` by uv.
#   scripts/setup.sh                 make it (a second run only checks a stamp)
#   scripts/setup.sh --print-python  make it and print only the path of its Python on stdout
#   scripts/setup.sh --extras        make it and add requirements-extras.lock: Ray, S3 and what their tests need
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }

stamp=$(cat requirements.lock environment.yml .python-version | cksum | tr ' ' '-')

conda_tool() {
  local tool
  for tool in mamba conda; do
    if command -v "$tool" >/dev/null 2>&1; then printf '%s' "$tool"; return 0; fi
  done
  return 1
}

conda_prefix() { # the folder of environment `qlib`, empty when there is none
  if [ "${CONDA_DEFAULT_ENV:-}" = qlib ] && [ -n "${CONDA_PREFIX:-}" ]; then printf '%s' "$CONDA_PREFIX"; return; fi
  "$1" env list 2>/dev/null | awk '$1 == "qlib" { print $NF }'
}

setup_conda() {
  local tool=$1 prefix
  prefix=$(conda_prefix "$tool")
  if [ -z "$prefix" ]; then
    say "setup: making the conda environment qlib (a few minutes)"
    "$tool" env create -f environment.yml >&2 || die "$tool env create failed; read its message above, mend, run scripts/setup.sh again"
    prefix=$(conda_prefix "$tool")
    [ -n "$prefix" ] || die "$tool made no environment qlib; try: $tool env create -f environment.yml"
  elif [ "$(cat "$prefix/.qlib-crypto-stamp" 2>/dev/null || true)" != "$stamp" ]; then
    say "setup: updating the conda environment qlib"
    "$tool" env update -n qlib -f environment.yml >&2 || die "$tool env update failed; read its message above"
  fi
  printf '%s' "$stamp" > "$prefix/.qlib-crypto-stamp"
  python=$prefix/bin/python
}

find_uv() {
  if uv --version >/dev/null 2>&1; then uv=uv; return; fi # run it: a pyenv shim may stand for a uv of another Python
  if ! .tools/bin/uv --version >/dev/null 2>&1; then
    command -v python3 >/dev/null 2>&1 || die "no python3 found; install Python 3.12 (https://www.python.org) or conda, then run again"
    say "setup: installing uv into .tools"
    if python3 -m venv .tools >&2; then
      .tools/bin/python -m pip install --quiet --disable-pip-version-check uv >&2 || die "pip could not install uv; check the network"
    else # Debian without python3-venv
      rm -rf .tools
      python3 -m pip install --quiet --target .tools uv >&2 || die "neither python3 -m venv nor pip works; install python3-venv or uv"
    fi
  fi
  uv=.tools/bin/uv
}

make_venv() { # uv's own look-up, then pyenv's folders, then uv's download
  local candidate
  "$uv" venv --quiet --no-python-downloads --python 3.12 .venv 2>/dev/null && return
  for candidate in "$HOME"/.pyenv/versions/3.12*/bin/python3.12; do
    [ -x "$candidate" ] && "$uv" venv --quiet --python "$candidate" .venv 2>/dev/null && return
  done
  say "setup: no Python 3.12 here; uv downloads one"
  "$uv" venv --quiet --python 3.12 .venv && return
  die "no Python 3.12: install it (pyenv install 3.12, apt install python3.12, or conda), then run scripts/setup.sh again"
}

setup_venv() {
  python=$PWD/.venv/bin/python
  if [ "$(cat .venv/.stamp 2>/dev/null || true)" = "$stamp" ] && [ -x "$python" ]; then return; fi
  find_uv
  if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
    say "setup: bringing .venv up to date"
  else
    say "setup: making .venv (about a minute, 1.5 GB)"
    rm -rf .venv
    make_venv
  fi
  "$uv" pip sync --quiet --python .venv/bin/python --compile-bytecode requirements.lock >&2 \
    || die "could not install requirements.lock; check the network to the package index and the free disk space, then run again"
  "$uv" pip install --quiet --python .venv/bin/python --no-deps --editable . >&2 || die "could not install the project itself"
  printf '%s' "$stamp" > .venv/.stamp
}

add_extras() {
  say "setup: adding requirements-extras.lock"
  case $python in
    "$PWD"/.venv/*) find_uv; "$uv" pip install --quiet --python "$python" -r requirements-extras.lock >&2 ;;
    *) "$python" -m pip install --quiet -r requirements-extras.lock >&2 ;;
  esac || die "could not install requirements-extras.lock; check the network to the package index, then run again"
}

if tool=$(conda_tool); then setup_conda "$tool"; else setup_venv; fi

if [ "${1:-}" = --extras ]; then add_extras; fi
if [ "${1:-}" = --print-python ]; then
  printf '%s\n' "$python"
else
  say "setup: ready, $python"
  case $python in
    "$PWD"/.venv/*) say "setup: activate with: source .venv/bin/activate" ;;
    *) say "setup: activate with: conda activate qlib" ;;
  esac
fi
