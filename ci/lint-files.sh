#!/usr/bin/env bash
# Lint what is not Python: Dockerfiles, YAML, shell scripts. The linters come with the dev extra.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z '*Dockerfile' | xargs -0 hadolint --config ci/hadolint.yaml
git ls-files -z '*.yaml' '*.yml' | xargs -0 yamllint --strict -c ci/yamllint.yaml
git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
