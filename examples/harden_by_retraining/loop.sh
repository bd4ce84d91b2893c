#!/bin/sh
# Train, audit, export, retrain, audit again, compare. Run it in this folder; it makes a new folder for what it writes.
# The numbers can be set from outside: COUNT=200 STEPS=100 QUERIES=20 sh loop.sh somewhere
set -eu
out=${1:-run}
count=${COUNT:-1000}
held_out=${HELD_OUT:-400}
steps=${STEPS:-800}
queries=${QUERIES:-100}
audit() {
    auditkit run train.py:network --checks patch.sticker,samples.hard --set "patch.sticker.queries=$queries" --quiet "$@"
}

mkdir "$out"
python render.py "$out/training.npz" --count "$count" --seed 101
python render.py "$out/held_out.npz" --count "$held_out" --seed 102

python train.py "$out/first.safetensors" --data "$out/training.npz" --steps "$steps"
audit --weights "$out/first.safetensors" --data "$out/held_out.npz" --out "$out/before"
audit --weights "$out/first.safetensors" --data "$out/training.npz" --out "$out/mining" --export "$out/exported"

python train.py "$out/second.safetensors" --data "$out/training.npz" --add "$out/exported" --steps "$steps"
audit --weights "$out/second.safetensors" --data "$out/held_out.npz" --out "$out/after"

python compare.py "$out/before" "$out/after"
