#!/usr/bin/env bash
# All the numbers of docs/tutorial-large-batch.md, about two minutes of CPU time.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p runs
for seed in 0 1 2; do
    for batch_size in 32 400; do
        sharp train mnist_task.py --optimizer adam --lr 1e-3 --batch-size "$batch_size" --seed "$seed" \
            --epochs 300 --until-loss 3e-3 --output "runs/batch-$batch_size-seed-$seed.safetensors"
    done
done
sharp measure runs/*.safetensors --task mnist_task.py --subspace full --subspace 100 --json > result.json
sharp compare result.json --by batch_size --baseline batch_size=32
sharp interpolate runs/batch-32-seed-0.safetensors runs/batch-400-seed-0.safetensors --task mnist_task.py --plot line.svg
