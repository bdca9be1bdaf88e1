# All variants in one file. `tfslim build` drives it; by hand, from the repository's root:
#
#   docker buildx bake -f dockerfiles/docker-bake.hcl approach-b
#   MODEL=path/to/saved_model TENSORFLOW_VERSION=2.21.0 docker buildx bake -f dockerfiles/docker-bake.hcl
#   docker buildx bake -f dockerfiles/docker-bake.hcl --print
#
# Every variable can be set from the environment. The defaults are those of tfslim.yaml and
# ci/tfslim/compat.yaml (a test keeps them equal). LOCK is for these versions and GPUs: with others,
# name theirs (dockerfiles/locks), or LOCK= for the newest packages.

variable "REPOSITORY" { default = "tfslim" }
variable "TAG" { default = "latest" }
variable "TENSORFLOW_VERSION" { default = "2.21.0" }
variable "PYTHON" { default = "python:3.13-slim-trixie" }
variable "CUDA_RUNTIME" { default = "nvidia/cuda:12.4.1-runtime-ubuntu22.04" }
variable "CUDA_DEVEL" { default = "nvidia/cuda:12.4.1-devel-ubuntu22.04" }
variable "CONSTRAINTS" { default = "" }
variable "SYSTEM_CUDA_WHEELS" { default = "nvidia-cudnn-cu12>=9.3.0.75,<10 nvidia-cuda-nvcc-cu12==12.5.82" }
variable "TRAINING_EXTRAS" { default = "tensorboard>=2.19,<3" }
variable "LOCK" { default = "tensorflow-2.21.0-py3.13-sm90.txt" }
variable "CUDA_ARCHS" { default = "90" }
variable "SLIM_PROFILE" { default = "arch" }
variable "SLIM_OPTIONS" { default = "" }
variable "AOT" { default = "" }
variable "TRACE" { default = "" }
variable "BYTECODE" { default = "unchecked" }
variable "HOST_CODE" { default = "whole" }
variable "GATE" { default = "on" }
variable "BACKEND" { default = "tensorflow" }
variable "FREEZE" { default = "off" }
variable "APP" { default = "dockerfiles/app" }
variable "MODEL" { default = "dockerfiles/model" }
variable "MODEL_NAME" { default = "model" }

group "default" {
  targets = ["stock", "approach-a", "approach-b", "training", "inference"]
}

target "_common" {
  contexts = {
    app   = APP
    model = MODEL
    build = "dockerfiles/build"
  }
  args = {
    TENSORFLOW_VERSION = TENSORFLOW_VERSION
    CONSTRAINTS        = CONSTRAINTS
    MODEL_NAME         = MODEL_NAME
  }
  platforms = ["linux/amd64"]
  labels = {
    "org.opencontainers.image.source"   = "https://github.com/org/tfslim-action"
    "org.opencontainers.image.licenses" = "Apache-2.0"
    "io.tfslim.tensorflow"              = TENSORFLOW_VERSION
  }
}

target "stock" {
  inherits = ["_common"]
  context  = "dockerfiles/stock"
  args     = { PYTHON = PYTHON }
  tags     = ["${REPOSITORY}/stock:${TAG}"]
  labels   = { "io.tfslim.variant" = "stock" }
}

target "approach-a" {
  inherits = ["_common"]
  contexts = { tfslim = ".", trial = MODEL }
  context  = "dockerfiles/approach-a"
  args = {
    CUDA_RUNTIME       = CUDA_RUNTIME
    CUDA_DEVEL         = CUDA_DEVEL
    SYSTEM_CUDA_WHEELS = SYSTEM_CUDA_WHEELS
    CUDA_ARCHS         = CUDA_ARCHS
    SLIM_PROFILE       = SLIM_PROFILE
    AOT                = AOT
    GATE               = GATE
    BACKEND            = BACKEND
  }
  tags   = ["${REPOSITORY}/approach-a:${TAG}"]
  labels = { "io.tfslim.variant" = "approach-a", "io.tfslim.profile" = SLIM_PROFILE }
}

target "approach-b" {
  inherits = ["_common"]
  contexts = { tfslim = ".", locks = "dockerfiles/locks", trial = MODEL }
  context  = "dockerfiles/approach-b"
  args = {
    PYTHON       = PYTHON
    LOCK         = LOCK
    CUDA_ARCHS   = CUDA_ARCHS
    SLIM_PROFILE = SLIM_PROFILE
    AOT          = AOT
    GATE         = GATE
    BACKEND      = BACKEND
  }
  tags     = ["${REPOSITORY}/approach-b:${TAG}"]
  labels   = { "io.tfslim.variant" = "approach-b", "io.tfslim.profile" = SLIM_PROFILE }
}

target "training" {
  inherits = ["_common"]
  contexts = { tfslim = ".", locks = "dockerfiles/locks", trial = MODEL }
  context  = "dockerfiles/training"
  args = {
    PYTHON          = PYTHON
    LOCK            = LOCK
    CUDA_DEVEL      = CUDA_DEVEL
    TRAINING_EXTRAS = TRAINING_EXTRAS
    CUDA_ARCHS      = CUDA_ARCHS
    SLIM_PROFILE    = SLIM_PROFILE
    AOT             = AOT
    GATE            = GATE
    BACKEND         = BACKEND
  }
  tags   = ["${REPOSITORY}/training:${TAG}"]
  labels = { "io.tfslim.variant" = "training", "io.tfslim.profile" = SLIM_PROFILE }
}

target "inference" {
  inherits = ["_common"]
  contexts = {
    tfslim = "."
    locks  = "dockerfiles/locks"
    traces = "dockerfiles/traces"
    trial  = MODEL
  }
  context  = "dockerfiles/inference"
  args = {
    PYTHON       = PYTHON
    LOCK         = LOCK
    CUDA_ARCHS   = CUDA_ARCHS
    AOT          = AOT
    SLIM_OPTIONS = SLIM_OPTIONS
    BYTECODE     = BYTECODE
    HOST_CODE    = HOST_CODE
    GATE         = GATE
    BACKEND      = BACKEND
    FREEZE       = FREEZE
  }
  tags   = ["${REPOSITORY}/inference:${TAG}"]
  labels = { "io.tfslim.variant" = "inference", "io.tfslim.profile" = "inference" }
}

# The same layers on a base with a shell.
target "inference-debug" {
  inherits = ["inference"]
  context  = "dockerfiles/inference"
  args     = { BASE = "debug" }
  tags     = ["${REPOSITORY}/inference-debug:${TAG}"]
  labels   = { "io.tfslim.variant" = "inference-debug" }
}

# For one model alone: it is traced in the build, or TRACE names a trace in the context `traces`.
target "workload" {
  inherits = ["inference"]
  context  = "dockerfiles/inference"
  args     = { PROFILE = "workload", TRACE = TRACE }
  tags     = ["${REPOSITORY}/workload:${TAG}"]
  labels   = { "io.tfslim.variant" = "workload", "io.tfslim.profile" = "workload" }
}

# Both without TensorFlow's Python files: its C API serves the model (SavedModels with signatures).
target "inference-native" {
  inherits = ["inference"]
  context  = "dockerfiles/inference"
  args     = { BACKEND = "capi", SLIM_OPTIONS = trimspace("--also=native ${SLIM_OPTIONS}") }
  tags     = ["${REPOSITORY}/inference-native:${TAG}"]
  labels   = { "io.tfslim.variant" = "inference-native" }
}

target "workload-native" {
  inherits = ["workload"]
  context  = "dockerfiles/inference"
  args     = { BACKEND = "capi", SLIM_OPTIONS = trimspace("--also=native ${SLIM_OPTIONS}") }
  tags     = ["${REPOSITORY}/workload-native:${TAG}"]
  labels   = { "io.tfslim.variant" = "workload-native" }
}
