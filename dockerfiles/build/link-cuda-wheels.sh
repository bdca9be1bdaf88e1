#!/bin/sh
# Make the CUDA libraries that lie in NVIDIA's wheels known to the dynamic loader, and ptxas to PATH.
# Usage: link-cuda-wheels.sh VENV [ROOT]      (VENV as it is named inside of ROOT)
set -eu
venv=$1
root=${2:-}
site="$(cd "$root/" && echo "${venv#/}"/lib/python3.*/site-packages)"
for folder in "$root/$site"/nvidia/*/lib; do
  [ -d "$folder" ] && echo "${folder#"$root"}"
done > "$root/etc/ld.so.conf.d/00-cuda-wheels.conf"
ldconfig -X -r "${root:-/}"
ptxas="/$site/nvidia/cuda_nvcc/bin/ptxas"
if [ -e "$root$ptxas" ]; then ln -sf "$ptxas" "$root$venv/bin/ptxas"; fi
