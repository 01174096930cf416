#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Trains on many machines with Slurm. From the repository's root, flags as for scripts/finetune.py:
#
#   sbatch scripts/slurm_example.sh --recipe NAME --dataset_name FOLDER --output_dir RESULTS \
#     --resume_from_checkpoint last
#
# The output folder must be on a disk that all machines share. A job that Slurm stops and queues
# again goes on from its newest checkpoint.
#SBATCH --job-name=vit-hf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1 # one launcher a machine, which starts one process a GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.out
set -euo pipefail

# The first machine is the meeting place; the port is the job's own.
read -r MAIN_PROCESS_IP < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MAIN_PROCESS_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MAIN_PROCESS_IP MAIN_PROCESS_PORT

# In single quotes, because SLURM_NODEID and SLURM_GPUS_ON_NODE differ from machine to machine.
srun --kill-on-bad-exit=1 bash -c '
  accelerate launch \
    --config_file scripts/accelerate_configs/multi_node.yaml \
    --num_machines "$SLURM_NNODES" \
    --machine_rank "$SLURM_NODEID" \
    --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --main_process_ip "$MAIN_PROCESS_IP" \
    --main_process_port "$MAIN_PROCESS_PORT" \
    scripts/finetune.py "$@"
' launcher "$@"
