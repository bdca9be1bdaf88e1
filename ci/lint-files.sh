#!/usr/bin/env bash
# Lint what is not Python: Dockerfiles, YAML, shell scripts, the action, workflows and their templates. The
# linters come with the dev extra, and none of them needs the network.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files -z '*Dockerfile' | xargs -0 hadolint --config ci/hadolint.yaml
git ls-files -z '*.yaml' '*.yml' | xargs -0 yamllint --strict -c ci/yamllint.yaml
git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck

mapfile -t workflows < <(git ls-files '.github/workflows/*.yml' 'docs/workflows/*.yml')
mapfile -t actions < <(git ls-files action.yml)
check-jsonschema --quiet --builtin-schema vendor.github-workflows "${workflows[@]}"
check-jsonschema --quiet --builtin-schema vendor.github-actions "${actions[@]}"
check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
actionlint -config-file .github/actionlint.yaml "${workflows[@]}"
# Rules of the house, and shellcheck for each `run:`, which actionlint does not do for actions.
python ci/lint/workflows.py "${workflows[@]}" "${actions[@]}"
zizmor --offline --quiet --pedantic --strict-collection --config .github/zizmor.yml \
  "${workflows[@]}" "${actions[@]}" .github/dependabot.yml
