#!/usr/bin/env bash
# Pre-train LLaMA-60M (GaLore's and FRUGAL's) on a GPU for at most 8 minutes by the four methods that decide: AdamW,
# FRUGAL at density 0.25 with signSGD, whitening at density 0, and whitening at 0.25; with as many tokens a run as all
# of the search and two seeds can have in that time. Every run that ends is kept in ${OUT:-benchmarks/results}/
# gpu_pretrain.jsonl, so whatever ends it costs only the run under way, and a second call goes on.
#
#   bash benchmarks/gpu_pretrain.sh          on a machine with a CUDA GPU
#   bash benchmarks/gpu_pretrain.sh --dry    the same rows on a CPU: a short run of the small model each, no search
#
# Table and plot: python -m benchmarks.pretrain --table --device cuda --out FOLDER, anywhere.
# MINUTES: for everything (8). DATA: folder of the text. PYTHON: the interpreter (python3). KEEP: compiled kernels.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
source benchmarks/gpu_packages.sh

where="--studies 60m --device cuda --minutes ${MINUTES:-8} --out ${OUT:-benchmarks/results}"
# what is tried goes beside no real results
[ "${1:-}" = --dry ] && where="--studies main --device cpu --at 1e-3 4 --seeds 0 --minutes ${MINUTES:-2} --out ${OUT:-$site/dry}"
# the last run that is begun should end in time; if it hangs, or the device does, it is ended
most=$(awk "BEGIN { print int(60 * ${MINUTES:-8} + 60) }")
# shellcheck disable=SC2086 # several words
timeout --foreground --kill-after=5 "$most" "$python" -m benchmarks.pretrain $where --fit --measure --methods adamw frugal frugal-0-whiten frugal-whiten \
  ${DATA:+--data "$DATA"}
