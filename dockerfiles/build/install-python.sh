#!/bin/sh
# Install the distribution's Python: the first of these packages that it has, so that both stages of a
# build get the same one. Ubuntu 22.04 has 3.11 beside its default 3.10, Debian 13 has 3.13.
# Usage: install-python.sh [venv]      (venv: with what `python -m venv` needs)
set -eu
apt-get update
for python in python3.11 python3; do
  apt-cache show "$python" > /dev/null 2>&1 || continue
  set -- "$python" ${1:+"$python-venv"}
  apt-get install -y --no-install-recommends "$@"
  ln -sf "$(command -v "$python")" /usr/local/bin/python
  python -V
  exit
done
echo "install-python: this base has no python3 package" >&2
exit 1
