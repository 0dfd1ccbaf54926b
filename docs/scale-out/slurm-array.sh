#!/bin/sh
# Answers prompts.jsonl in the folder it was submitted from, on four nodes.
#SBATCH --job-name=vllm-offline
#SBATCH --array=1-4
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
# One GPU a part: #SBATCH --gres=gpu:1
# Puts a part whose node failed back into the queue, where it goes on from its journal.
#SBATCH --requeue
# Two minutes before the time limit, the rows under way are finished and the part stops.
#SBATCH --signal=B:INT@120
#SBATCH --time=04:00:00

part=$SLURM_ARRAY_TASK_ID
parts=$SLURM_ARRAY_TASK_COUNT

# Started in the background, so that the shell is free to hand the signal on.
vllm-offline \
    --model "${MODEL:-demo}" \
    --input prompts.jsonl \
    --output "answers-$(printf %04d "$part").jsonl" \
    --shard "$part/$parts" \
    --temperature 0 --max-tokens 64 &
job=$!
trap 'kill -INT "$job"' INT TERM
wait "$job"
code=$?
# A signal ends `wait` before the job has ended.
while kill -0 "$job" 2>/dev/null; do
    wait "$job"
    code=$?
done

# Rows that failed say why in the output, which is complete.
[ "$code" -eq 3 ] && exit 0
# Interrupted by the time limit: the rest is for another turn.
[ "$code" -eq 130 ] && [ -n "$SLURM_JOB_ID" ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
