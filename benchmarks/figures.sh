#!/usr/bin/env bash
# Takes the figures that need a GPU, each within its own time, and says at the end which came.
#
#   benchmarks/figures.sh OUT [PACK] [--cpu] [--quick]
#
# PACK may hold wheels that this machine lacks, in PACK/wheels: diffusers, and torchao for smallmemory. --cpu
# rehearses where there is no GPU, --quick with tiny sizes. OUT gets NAME.txt of each and summary.txt. All end
# within ten minutes. Exits with 1 if one failed.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/bare.sh"
out='' pack='' device=cuda quick=''
for argument; do
  case $argument in
    --cpu) device=cpu ;;
    --quick) quick=1 ;;
    -*) echo "expected --cpu or --quick, found $argument: leave it out" >&2 && exit 2 ;;
    *) if [ -z "$out" ]; then out=$argument; else pack=$argument; fi ;;
  esac
done
[ -n "$out" ] || { echo "expected OUT, found none: name a folder" >&2; exit 2; }
[ $device = cuda ] || export CUDA_VISIBLE_DEVICES=
ready "$pack" torch numpy PIL safetensors imagecodecs tifffile accelerate
mkdir -p "$out"
: >"$out/summary.txt"
failed=0

# figure NAME SECONDS ARGUMENT...: one script, in its own file; others go on whatever becomes of it.
figure() {
  local name=$1 limit=$2 began=$SECONDS code=0
  shift 2
  timeout --kill-after=5 "$limit" "$PYTHON" "$ROOT/benchmarks/$name.py" "$@" >"$out/$name.txt" 2>&1 || code=$?
  case $code in
    0) said=ok ;;
    124 | 137) said="stopped after $limit s" ;;
    *) said="failed ($code): $(tail -n 1 "$out/$name.txt")" ;;
  esac
  [ $code = 0 ] || failed=1
  echo "$name: $said, $((SECONDS - began)) s" | tee -a "$out/summary.txt"
}

if [ -n "$quick" ]; then
  figure plan 240 --device $device --sizes tiny --only compact-teacher --steps 1
  figure smallmemory 240
  figure roles 240 --device $device --side 32 --batch 1 --steps 1
  figure pipelines 240 --device $device --sizes tiny --runs 1
else
  figure plan 180 --device $device
  figure smallmemory 100
  figure roles 90 --device $device
  figure pipelines 200 --device $device
fi
exit $failed
