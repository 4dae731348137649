#!/usr/bin/env bash
# One sweep over the devices of several nodes, a process each: JAX finds the others by what SLURM says.
#   sbatch --nodes=4 scripts/launchers/slurm.sh paper_configs/... --over sparsity=0.5:0.99:32 --out /shared/runs
#SBATCH --job-name=jaxcompress
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --output=sweep-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
srun .venv/bin/python scripts/sweep.py "$@" --distributed
