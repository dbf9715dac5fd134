#!/usr/bin/env bash
# Makes model_cards/llmi3d-tiny from nothing: renders the data, trains in four stages, evaluates, writes the card.
#
#   bash examples/train_tiny.sh            # some three hours on two CPU cores
#   OUT=/somewhere bash examples/train_tiny.sh
#
# Give the same command again after an interruption: finished steps are passed over, the others go on.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-outputs/tiny}
CARD=${CARD:-model_cards/llmi3d-tiny}
PYTHON=${PYTHON:-.venv/bin/python}
PROCESSES=${PROCESSES:-$(nproc)}
# Large tensors are given back to the system and zeroed again at every step otherwise: a tenth of the time.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
# Threads that wait do not keep a core from others.
export OMP_WAIT_POLICY=PASSIVE

# 14,000 pictures of four domains to learn from, 320 pixels along the longer side; others, of another seed, to be judged by.
"$PYTHON" -m llmi3d data build synth --out "$OUT/train" --option frames=train:14000,validation:400 \
    --option long_side=320 --option masks=true --max-turns 12 --rows-per-shard 250 --num-proc "$PROCESSES"
"$PYTHON" -m llmi3d data build synth --out "$OUT/test" \
    --option frames=test:1000,novel:400,camera:400,dense:240,far:240 --option long_side=320 --option seed=1000 \
    --max-turns 12 --rows-per-shard 100 --num-proc "$PROCESSES"

"$PYTHON" examples/tiny/prepare.py --data "$OUT/train" --out "$OUT" --num-proc "$PROCESSES"
for stage in towers pretrain align finetune; do
    "$PYTHON" examples/tiny/train.py $stage --out "$OUT"
done
"$PYTHON" examples/tiny/train.py export --out "$OUT" --card "$CARD"
# The score as the probability of a right box, fitted on pictures of a third seed; 1 if that is no better.
if [ ! -f "$OUT/calibration/calibration.json" ]; then
    "$PYTHON" -m llmi3d data build synth --out "$OUT/calibration_data" --option frames=validation:200 \
        --option long_side=320 --option seed=2000 --max-turns 12 --num-proc "$PROCESSES"
    "$PYTHON" -m llmi3d calibrate "$CARD" "$OUT/calibration_data" --protocol ig3d-synth --out "$OUT/calibration" \
        --batch-size 32 --device cpu --store || [ $? -eq 1 ]
fi
"$PYTHON" examples/tiny/evaluate.py --data "$OUT/test" --out "$OUT" --card "$CARD" --limit 200
