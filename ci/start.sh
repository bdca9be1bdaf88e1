#!/usr/bin/env bash
# From a fresh clone to the main job, or to the tests, with one command.
#
#   bash ci/start.sh bench [ARGUMENTS…]   build, inspect and measure the images (arguments: tfslim bench --help)
#   bash ci/start.sh test                 lint, unit tests, then all images built and tried for real
#   bash ci/start.sh SESSION…             any other nox session
#
# Installs Python 3.11 or newer with apt if it is missing (named first), and everything else into
# .venv here. Without a Docker engine a private one is set up; `tfslim engine purge` removes it.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "start: $*" >&2; }

apt_install() {
  say "installing with apt: $*"
  if [ "$(id -u)" -ne 0 ]; then
    say "not root: run 'sudo apt-get install $*' first, then this again"
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

# A Python that can make virtual environments; Ubuntu 22.04's own is 3.10, and 3.11 lies beside it.
find_python() {
  for python in python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$python"
      return
    fi
  done
}

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '/^set /d'; }
case ${1:-} in
  '') usage >&2; exit 2 ;;
  -h | --help) usage; exit ;;
esac

python=$(find_python)
if [ -z "$python" ]; then
  # shellcheck source=/dev/null
  . /etc/os-release
  if [ "${VERSION_CODENAME:-}" = jammy ]; then apt_install python3.11 python3.11-venv
  else apt_install python3 python3-venv; fi
  python=$(find_python)
fi
if [ -z "$python" ]; then say "no Python 3.11 or newer, and apt has none"; exit 1; fi

if [ ! -x .venv/bin/nox ]; then
  say "making .venv with $($python -V)"
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check nox
fi

session=$1
shift
case $session in
  test)
    # The tests compile a stand-in for NVIDIA's driver, and what brings host code back; the linters ask
    # git for the files.
    command -v cc > /dev/null || apt_install gcc libc6-dev
    [ -f /usr/include/zstd.h ] || apt_install libzstd-dev
    command -v git > /dev/null || apt_install git
    .venv/bin/nox -s lint tests e2e -- "$@"
    ;;
  *) .venv/bin/nox -s "$session" -- "$@" ;;
esac
