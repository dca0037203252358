# What a bare machine lacks, for scripts that are in the repository's root and source this: sets `python`, and
# PYTHONPATH to a folder with hybridopt, its integrations, the benchmarks and what the wheels in ./wheels hold.

python=${PYTHON:-python3}
keep=${KEEP:-${TMPDIR:-/tmp}/hybridopt-gpu}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$keep"

bring_packages() {
  cp -r hybridopt "$site/" && cp -r integrations "$site/hybridopt/" && ln -s "$PWD/benchmarks" "$site/benchmarks" || return
  if compgen -G "wheels/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" wheels/*.whl
  fi
}

bring_packages || echo "packages: not all could be brought"
# what is imported is what was brought: hybridopt/ of this folder lacks its integrations
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TORCHINDUCTOR_CACHE_DIR="$keep/inductor" TRITON_CACHE_DIR="$keep/triton" TOKENIZERS_PARALLELISM=false
