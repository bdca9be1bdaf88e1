#!/bin/sh
# Make the CUDA libraries that lie in NVIDIA's wheels known to the dynamic loader, and ptxas to PATH.
# Usage: link-cuda-wheels.sh VENV
set -eu
site="$(echo "$1"/lib/python3.*/site-packages)"
for folder in "$site"/nvidia/*/lib; do
  [ -d "$folder" ] && echo "$folder"
done > /etc/ld.so.conf.d/00-cuda-wheels.conf
ldconfig
ptxas="$site/nvidia/cuda_nvcc/bin/ptxas"
if [ -e "$ptxas" ]; then ln -sf "$ptxas" "$1/bin/ptxas"; fi
