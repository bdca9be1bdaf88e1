#!/usr/bin/env bash
# Makes what the action runs in: a virtual environment of its own, with the packages of
# requirements.txt and nothing else. Nothing is installed into the machine's Python.
#
# In:  TFSLIM_INPUT_PYTHON (auto, a command or a path), GITHUB_ACTION_PATH, RUNNER_TEMP,
#      TFSLIM_ACTION_HOME (a folder to keep the packages in; RUNNER_TEMP if not set)
# Out: python=PATH and cache-dir=FOLDER in GITHUB_OUTPUT
set -euo pipefail

here=${GITHUB_ACTION_PATH:-$(cd "$(dirname "$0")/../.." && pwd)}
temp=${RUNNER_TEMP:-${TMPDIR:-/tmp}}
lock=$here/ci/action/requirements.txt

fail() {
  local text="$1 What you can do: $2"
  text=${text//'%'/%25}
  text=${text//$'\r'/%0D}
  printf '::error title=tfslim::%s\n' "${text//$'\n'/%0A}"
  exit 3
}

fits() {
  [ "$("$1" -I -c 'import ensurepip, sys, venv; print(sys.version_info >= (3, 11))' 2> /dev/null)" = True ]
}

# The newest that the machine offers by name; the tool cache of GitHub's runners is on no PATH.
find_python() {
  local wanted=${TFSLIM_INPUT_PYTHON:-auto} candidate
  if [ "$wanted" != auto ]; then
    fits "$wanted" || fail "input python: '$wanted' is not Python 3.11 or newer with venv and ensurepip." \
      "Leave the input out, name another one, or put actions/setup-python before this step."
    command -v "$wanted"
    return
  fi
  for candidate in python3 python python3.14 python3.13 python3.12 python3.11 \
    "${RUNNER_TOOL_CACHE:-/nowhere}"/Python/3.1[1-9].*/x64/bin/python; do
    if fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "There is no Python 3.11 or newer with venv and ensurepip on this runner." \
    "Put actions/setup-python before this step, install python3 and python3-venv, or name one with the input python."
}

python=$(find_python) || { printf '%s\n' "$python"; exit 3; }

# The packages, once for each lock and Python. They lie in the job's own folder, or in the one that
# TFSLIM_ACTION_HOME names: a runner of one's own can keep them from job to job.
key=$({ cat "$lock"; "$python" -I -c 'import sys; print(sys.version, sys.prefix)'; } | sha256sum)
packages=${TFSLIM_ACTION_HOME:-$temp}/tfslim-packages-${key:0:16}
if [ ! -e "$packages" ]; then
  new=$packages.$$
  mkdir -p "${packages%/*}"
  "$python" -I -m venv "$new" ||
    fail "$python cannot make a virtual environment in ${packages%/*}." "Install python3-venv, or free some disk."
  # Packages come as wheels, each with the hash that the lock names: no code of theirs runs here.
  "$new/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input \
    --require-hashes --only-binary=:all: -r "$lock" || {
    rm -rf "$new"
    fail "The action's packages could not be installed; the lines above say why." \
      "For a private index set PIP_INDEX_URL (or PIP_CONFIG_FILE) and PIP_CERT for the job."
  }
  mv -T "$new" "$packages" 2> /dev/null || rm -rf "$new" # another job was faster
fi

# The job's own environment: those packages, and the package itself where it was checked out, which
# differs from use to use.
home=$temp/tfslim-environment
"$python" -I -m venv --without-pip --clear "$home" ||
  fail "$python cannot make a virtual environment in $temp." "Install python3-venv, or free some disk."
inside=$("$home/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$packages/${inside#"$home"/}" "$here/ci" > "$inside/tfslim-action.pth"

# GitHub's own runners are gone after a job: actions/cache carries the folder. Others keep it.
if [ "${RUNNER_ENVIRONMENT:-}" = github-hosted ]; then cache=$temp/tfslim-cache
else cache=${RUNNER_TOOL_CACHE:-$temp}/tfslim-cache; fi

{
  printf 'python=%s\n' "$home/bin/python"
  printf 'cache-dir=%s\n' "$cache"
} >> "${GITHUB_OUTPUT:-/dev/stdout}"
