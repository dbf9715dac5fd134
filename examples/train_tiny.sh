#!/usr/bin/env bash
# Makes model_cards/llmi3d-tiny from nothing: renders data, trains in four stages, evaluates, writes the card.
#
#   bash examples/train_tiny.sh            # some three hours on two CPU cores
#   OUT=/somewhere bash examples/train_tiny.sh
#
# After an interruption give the same command again: it skips finished steps and resumes the others.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-outputs/tiny}
CARD=${CARD:-model_cards/llmi3d-tiny}
PYTHON=${PYTHON:-.venv/bin/python}
PROCESSES=${PROCESSES:-$(nproc)}
# Keeps large tensors in the process instead of having them zeroed anew at every step: a tenth of the time.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
# Waiting threads give up their core.
export OMP_WAIT_POLICY=PASSIVE

# 14,000 images of four domains for training, 320 pixels along the longer side; others, of another seed, for testing.
"$PYTHON" -m llmi3d data build synth --out "$OUT/train" --option frames=train:14000,validation:400 \
    --option version=1 --option long_side=320 --option masks=true --max-turns 12 --rows-per-shard 250 --num-proc "$PROCESSES"
"$PYTHON" -m llmi3d data build synth --out "$OUT/test" \
    --option frames=test:1000,novel:400,camera:400,dense:240,far:240 --option version=1 --option long_side=320 --option seed=1000 \
    --max-turns 12 --rows-per-shard 100 --num-proc "$PROCESSES"

[ -f "$OUT/base/model.safetensors" ] || "$PYTHON" examples/tiny/new_model.py --data "$OUT/train" --out "$OUT/base"
"$PYTHON" -m llmi3d.training.run examples/recipes/tiny.yaml --model_name_or_path "$OUT/base" --output_dir "$OUT/run" \
    --datasets "$OUT/train"
cp "$OUT"/run/final/*.* "$CARD/"
# Calibrates the score on images of a third seed; exit status 1 means that this is no better.
if [ ! -f "$OUT/calibration/calibration.json" ]; then
    "$PYTHON" -m llmi3d data build synth --out "$OUT/calibration_data" --option frames=validation:200 \
        --option version=1 --option long_side=320 --option seed=2000 --max-turns 12 --num-proc "$PROCESSES"
    "$PYTHON" -m llmi3d calibrate "$CARD" "$OUT/calibration_data" --protocol ig3d-synth --out "$OUT/calibration" \
        --batch-size 32 --device cpu --store || [ $? -eq 1 ]
fi
"$PYTHON" examples/tiny/evaluate.py --data "$OUT/test" --out "$OUT" --card "$CARD" --run "$OUT/run" --limit 200
