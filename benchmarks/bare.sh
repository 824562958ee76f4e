# Sourced by gpu.sh and figures.sh: what a machine with torch and without a network still lacks.
# Sets ROOT, PYTHON and PYTHONPATH; `ready PACK MODULE...` leaves the script with a sentence if modules lack.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$ROOT/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

ready() {
  local wheels=$1/wheels missing site
  shift
  if compgen -G "$wheels/*.whl" >/dev/null; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install --quiet --no-index --find-links "$wheels" --no-deps --no-compile --no-cache-dir \
      --disable-pip-version-check --root-user-action ignore --target "$site" "$wheels"/*.whl
    export PYTHONPATH="$site:$PYTHONPATH"
  fi
  missing=$("$PYTHON" -c 'import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])' "$@")
  if [ -n "$missing" ]; then
    echo "expected the modules of a training on this machine, found none of: $missing: carry their wheels" \
      "(python benchmarks/gpu.py pack --wheels FOLDER)" >&2
    exit 1
  fi
}
