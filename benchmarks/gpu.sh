#!/usr/bin/env bash
# Everything there is to measure on a GPU, in less than ten minutes: steps at two sizes, the peak memory of a whole
# training step at 8B, zeroth-order steps at 13B and their replay, 70B, the cost of noise, and, if minutes remain, a
# little pre-training. A part that fails or runs out of time is recorded and the rest goes on. Needs torch,
# transformers, peft, safetensors and rich, nothing installed: packages lying as wheels in ./wheels are used besides.
#
# Records go to ${OUT:-benchmarks/results/gpu} row by row, and how a part ended as soon as it has: whatever stops this
# script costs only the row being measured. Tables and plots follow from them:
# python -m benchmarks.step --table --out benchmarks/results/gpu
#
#   bash benchmarks/gpu.sh          on a machine with a CUDA GPU
#   bash benchmarks/gpu.sh --dry    the same on CPU with tiny shapes, two minutes
#
# MINUTES: for everything (9). DATA: folder of the text for pre-training. PYTHON: the interpreter (python3).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

dry=${1:-}
out=${OUT:-benchmarks/results/gpu}
python=${PYTHON:-python3}
end=$((SECONDS + 60 * ${MINUTES:-9}))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
for table in step train_memory zeroth_memory fit_70b noise noise_cuda pretrain_60m parts; do
  rm -f "$out/$table.jsonl" # of an earlier run of this script
done
: >"$out/gpu.log"

bring_packages() {
  mkdir -p "$work/site" && cp -r hybridopt "$work/site/" && cp -r integrations "$work/site/hybridopt/" || return
  ln -s "$PWD/benchmarks" "$work/site/benchmarks" || return
  if compgen -G "wheels/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$work/site" wheels/*.whl
  fi
}

# part NAME SECONDS COMMAND...: run it with a time limit, keep its output in the log, write down how it ended
part() {
  local name=$1 limit=$2 code=0 began=$SECONDS left=$((end - SECONDS))
  shift 2
  if ((limit > left)); then limit=$left; fi
  if ((limit < 15)); then
    code=skipped
  else
    echo "== $name: at most $limit s: $*" | tee -a "$out/gpu.log"
    timeout --kill-after=10 "$limit" "$@" >>"$out/gpu.log" 2>&1
    code=$?
  fi
  local ended
  case $code in
    0) ended=ok ;;
    skipped) ended="skipped: no time left" ;;
    124 | 137) ended="stopped after $limit s" ;;
    *) ended="failed: exit $code" ;;
  esac
  printf '{"part": "%s", "ended": "%s", "seconds": %d}\n' "$name" "$ended" $((SECONDS - began)) >>"$out/parts.jsonl"
}

# step SET SECONDS OPTIONS...: the rows of one set of shapes
step() {
  local set=$1 limit=$2
  shift 2
  part "step $set" "$limit" "$python" -m benchmarks.step --device "$device" --set "$set" --dtypes bf16 --measure \
    --minutes "$(awk "BEGIN { print ($limit - 20) / 60 }")" --out "$out" "$@"
}

find_data() {
  for folder in "${DATA:-}" .data shared/data ../shared/data; do
    if [ -n "$folder" ] && [ -d "$folder" ]; then
      echo "$folder" && return
    fi
  done
}

show() {
  cp "$out"/*.jsonl "$work/" # where the tables are written, and forgotten
  for table in step train_memory zeroth_memory; do
    "$python" -m "benchmarks.$table" --table --out "$work" 2>>"$out/gpu.log"
  done
  cat "$out/parts.jsonl"
}

bring_packages >>"$out/gpu.log" 2>&1 || echo "packages: not all could be brought" | tee -a "$out/gpu.log"
# what is imported is what was brought: hybridopt/ of this folder lacks its integrations
export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

own='hybridopt.adamw|hybridopt.signsgd|hybridopt.frugal|hybridopt.frugal-0|hybridopt.adam_mini|hybridopt.adalomo'
own+='|hybridopt.adamw-int8|hybridopt.adafactor|hybridopt.came|hybridopt.frugal-block|hybridopt.badam'
own+='|hybridopt.signsgd+nearest|hybridopt.adam_mini+nearest|hybridopt.adamw+nearest|bitsandbytes.*|compiled.*'
if [ "$dry" = --dry ]; then
  device=cpu
  step tiny 60 --pairs 2 --threads 1 --compile false --only 'hybridopt.signsgd|hybridopt.frugal|torch.adamw-fused'
  part "train_memory" 60 "$python" -m benchmarks.train_memory --device cpu --only torch-adamw adamw frugal-0 \
    --out "$out"
  part "zeroth_memory" 60 "$python" -m benchmarks.zeroth_memory --device cpu --replayed 5 --only forward mezo addax \
    --out "$out"
  part "fit_70b" 60 "$python" -m benchmarks.fit_70b --device cpu --measure-only --only frugal --minutes 0.7 --out "$out"
  part "noise" 60 "$python" -m benchmarks.noise --elements 65536 --rounds 1 --threads 1 --dtypes fp32 --measure \
    --out "$out"
else
  device=cuda
  step 1b 110 --only "$own|torch.adamw-f*|torch.sgd*|torch.adafactor-foreach|lomo*|adam-mini|came*"
  step 8b 110 --pairs 9 --only "$own|torch.adamw-f*|torch.sgd*"
  part "train_memory" 110 "$python" -m benchmarks.train_memory --device cuda --minutes 1.5 --out "$out"
  part "zeroth_memory" 120 "$python" -m benchmarks.zeroth_memory --device cuda --minutes 1.7 --out "$out"
  part "fit_70b" 150 "$python" -m benchmarks.fit_70b --device cuda --measure-only --minutes 2.2 --out "$out"
  part "noise" 40 "$python" -m benchmarks.noise --device cuda --measure --out "$out"
  left=$((end - SECONDS - 25))
  part "pretrain" "$left" "$python" -m benchmarks.pretrain --size 60m --device cuda --data "$(find_data)" --measure \
    --out "$out" --minutes "$(awk "BEGIN { m = ($left - 20) / 60; print (m < 3 ? m : 3) }")"
fi
show
