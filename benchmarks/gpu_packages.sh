# What a bare machine lacks, for scripts that are in the repository's root and source this: sets `python`, and
# PYTHONPATH to a folder with hybridopt, its integrations, the benchmarks and what the wheels in ./wheels hold.

python=${PYTHON:-python3}
keep=${KEEP:-${TMPDIR:-/tmp}/hybridopt-gpu}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$keep" 2>/dev/null && [ -w "$keep" ] || { keep=$site/kept && mkdir "$keep"; } # kernels are written there

bring_wheels() {
  if "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$@"
    return
  fi
  local wheel
  for wheel in "$@"; do "$python" -m zipfile -e "$wheel" "$site" || return; done
}

bring_packages() {
  cp -r hybridopt "$site/" && cp -r integrations "$site/hybridopt/" && ln -s "$PWD/benchmarks" "$site/benchmarks" || return
  if compgen -G "wheels/*.whl" >/dev/null; then bring_wheels wheels/*.whl; fi
}

bring_packages || echo "packages: not all could be brought"
# what is imported is what was brought: hybridopt/ of this folder lacks its integrations
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TORCHINDUCTOR_CACHE_DIR="$keep/inductor" TRITON_CACHE_DIR="$keep/triton" TOKENIZERS_PARALLELISM=false
# many libraries look for a home and a name, which bare machines may not give
export HOME="${HOME:-$keep}" USER="${USER:-user}" TRITON_HOME="$keep"
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}" # one GPU is measured: Trainer takes all that it sees
cores=$(nproc 2>/dev/null || echo 4) # where only a quota holds processes back these are all of the machine's
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores < 16 ? cores : 16))}"
export TORCHINDUCTOR_COMPILE_THREADS="${TORCHINDUCTOR_COMPILE_THREADS:-$((cores < 8 ? cores : 8))}"

# the text for pre-training, where nobody has named its folder
for folder in .data shared/data ../shared/data; do
  if [ -z "${DATA:-}" ] && [ -d "$folder" ]; then DATA=$(cd "$folder" && pwd); fi
done
