#!/usr/bin/env bash
# Shards of a sweep as a SLURM array: every task runs its own points, and no coordinator is needed.
#   sbatch --array=0-7 scripts/launchers/slurm_array.sh paper_configs/... --over sparsity=0.5:0.99:32 --over seed=0:8
# Give the same command again to go on with what was stopped; finished points are not run again.
#SBATCH --job-name=jaxcompress
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=sweep-%A-%a.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
first=${SLURM_ARRAY_TASK_MIN:-0}
.venv/bin/python scripts/sweep.py "$@" --shard "$((SLURM_ARRAY_TASK_ID - first))/$SLURM_ARRAY_TASK_COUNT"
