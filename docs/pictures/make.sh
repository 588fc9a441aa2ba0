#!/usr/bin/env bash
# The checkpoints and all pictures of docs/guide.md, about four minutes of CPU time:
# make.sh [FOLDER] [--publish]. Only --publish replaces the pictures that the page shows.
set -euo pipefail
pictures=$(cd "$(dirname "$0")" && pwd)
publish=no folder=$pictures/runs
for word in "$@"; do
    if [ "$word" = --publish ]; then publish=yes; else folder=$word; fi
done
mkdir -p "$folder"
cd "$folder"

# Small and large batches from the same first weights, to one training loss.
sharp train digits -O depth=4 --lr 0.05 --momentum 0.9 --batch-size 32 --epochs 600 --until-loss 0.01 --output small.safetensors
sharp train digits -O depth=4 --lr 0.05 --momentum 0.9 --batch-size 1442 --epochs 600 --until-loss 0.01 --output large.safetensors

# Three seeds of a wide network.
for seed in 1 2 3; do
    sharp train digits -O width=256 --optimizer adam --epochs 30 --seed "$seed" --output "seed-$seed.safetensors"
done

# A run that ends after more and more epochs leaves its path behind, once with each optimizer.
for optimizer in sgd adam; do
    for epochs in 01 02 03 05 08 13 20 30; do
        sharp train digits --optimizer "$optimizer" --batch-size 64 --epochs "$epochs" --output "$optimizer-$epochs.safetensors"
    done
done

sharp interpolate small.safetensors large.safetensors --plot line.svg
sharp interpolate seed-1.safetensors seed-2.safetensors --range 0:1 --align --path bezier --plot aligned.svg
sharp interpolate seed-1.safetensors seed-2.safetensors seed-3.safetensors --points 41 --json > plane.json
sharp plot plane.json --split train --plot plane.png
sharp landscape small.safetensors --points 41 --plot surface.png
sharp landscape small.safetensors --directions hessian --dimensions 1 --points 41 --plot hessian.svg
sharp landscape adam-30.safetensors --directions trajectory --trajectory adam-*.safetensors --trajectory sgd-*.safetensors --points 41 --split train --plot trajectory.png
sharp spectrum small.safetensors large.safetensors --plot spectrum.svg

# As small as possible: the 250 most frequent colours, and the nearest of these for all others.
python - <<'END'
import numpy as np
from PIL import Image

for name in ("plane.png", "surface.png", "trajectory.png"):
    pixels = np.asarray(Image.open(name).convert("RGB"))
    colours, places, counts = np.unique(
        pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True
    )
    palette = colours[np.argsort(-counts)[:250]]
    apart = np.abs(colours[:, None].astype(int) - palette).sum(2)
    picture = Image.fromarray(apart.argmin(1)[places].reshape(pixels.shape[:2]).astype(np.uint8))
    picture.putpalette(palette.tobytes())
    picture.save(name, optimize=True)
END
[ "$publish" = no ] || cp line.svg aligned.svg plane.png surface.png hessian.svg spectrum.svg trajectory.png "$pictures"
