#!/usr/bin/env bash
# One sweep on all hosts of a Cloud TPU, where this repository lies under the same path with its environment made
# (pip install -e '.[experiments,tpu]'). The folder --out has to be one that all hosts see.
#   TPU=name ZONE=us-west4-a scripts/launchers/tpu_vm.sh paper_configs/... --over seed=0:64 --out /mnt/shared/runs
set -euo pipefail
: "${TPU:?the name of the TPU}" "${ZONE:?the zone that it is in}"
here=${REPOSITORY:-jaxcompress}
printf -v arguments '%q ' "$@"
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd $here && .venv/bin/python scripts/sweep.py $arguments --distributed"
