#!/usr/bin/env bash
# Everything there is to measure on a GPU, in less than ten minutes. This script brings what a bare machine lacks and
# starts `python -m benchmarks.gpu`, which runs the parts, keeps what they find in ${OUT:-benchmarks/results/gpu}/gpu.json
# row by row, and prints a table after each. Needs torch, transformers, peft, safetensors and rich, nothing installed
# and no network: wheels in ./wheels are used besides (benchmarks/README.md tells how to make one of bitsandbytes).
#
#   bash benchmarks/gpu.sh                            on a machine with a CUDA GPU
#   bash benchmarks/gpu.sh --dry                      the same on a CPU with tiny shapes, in less than three minutes
#   bash benchmarks/gpu.sh --only policies "memory 8B"    some parts alone
#
# MINUTES: for everything (9). DATA: folder of the text for pre-training. PYTHON: the interpreter (python3).
# KEEP: folder of compiled kernels, which a second call on the same machine does not compile again.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
source benchmarks/gpu_packages.sh

"$python" -m benchmarks.gpu --out "${OUT:-benchmarks/results/gpu}" --minutes "${MINUTES:-9}" \
  ${DATA:+--data "$DATA"} "$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT HUP # it publishes what is there, and ends what it has started
while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done
exit "$code"
