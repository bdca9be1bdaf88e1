#!/bin/bash
# Compile the custom op against the TensorFlow of a virtual environment.
# Usage: build.sh VENV SOURCE OUTPUT "ARCH ARCH…"     (ARCH: compute capability, such as 90)
#
# The interpreter of VENV is not run (it may belong to another base image): what tf.sysconfig would
# say stands in TensorFlow's headers and libraries.
set -euo pipefail
venv=$1 src=$2 out=$3 archs=$4
tf=$(echo "$venv"/lib/python3.*/site-packages/tensorflow)
mkdir -p "$out"

# The compiler that nvcc is set up with may be the only one (Debian's devel packages bring g++-13 alone).
for candidate in ${CXX:-} g++ g++-13 g++-12 c++; do
  if command -v "$candidate" > /dev/null; then cxx=$candidate; break; fi
done
if [ -z "${cxx:-}" ]; then echo "build.sh: no C++ compiler here" >&2; exit 1; fi

# The ABI that TensorFlow was built with: its framework library exports one of the two spellings.
abi=$(strings -a "$tf/libtensorflow_framework.so.2" | grep -cm1 'NSt7__cxx1112basic_string' || true)
flags=(-std=c++17 -O2 -fPIC -DNDEBUG -w "-D_GLIBCXX_USE_CXX11_ABI=$abi" "-DEIGEN_MAX_ALIGN_BYTES=64")
objects=()

if command -v nvcc > /dev/null; then
  # Where nvcc itself finds CUDA's headers; empty where they are the system's (Debian's packages).
  touch "$out/empty.cu"
  read -ra includes <<< "$(nvcc --dryrun -c "$out/empty.cu" -o /dev/null 2>&1 |
    sed -n 's/^#\$ INCLUDES=//p' | tr -d '"')"
  rm "$out/empty.cu"
  gencode=()
  for arch in $archs; do gencode+=("-gencode=arch=compute_${arch},code=sm_${arch}"); done
  nvcc -std=c++17 -O2 -x cu -Xcompiler -fPIC -DNDEBUG "${gencode[@]}" \
    -c "$src/scale_shift_kernel.cu" -o "$out/kernel.o"
  flags+=(-DSCALE_SHIFT_CUDA -DGOOGLE_CUDA=1 "${includes[@]}")
  objects+=("$out/kernel.o")
else
  echo "build.sh: no nvcc here: the op is built for the CPU only" >&2
fi

"$cxx" "${flags[@]}" -shared "-I$tf/include" "$src/scale_shift_op.cc" "${objects[@]}" \
  -o "$out/scale_shift.so.new" -L"$tf" -l:libtensorflow_framework.so.2
rm -f "${objects[@]}"
mv "$out/scale_shift.so.new" "$out/scale_shift.so"
cp "$src/scale_shift.py" "$out/"
