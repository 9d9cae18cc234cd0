#!/usr/bin/env bash
# One Dask worker for each GPU of this machine, then `sparsemtl run ARGUMENTS --device cuda` on all of them.
#   examples/cluster/gpus.sh upadhyay2023 --profile full
# GPUS="0 1" takes these cards only; DEVICE=cpu rehearses without a card, one worker for each word of GPUS.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
device=${DEVICE:-cuda}
gpus=${GPUS:-$(nvidia-smi --query-gpu=index --format=csv,noheader)}
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

python -m distributed.cli.dask_scheduler --host 127.0.0.1 --port 0 --no-dashboard --scheduler-file "$folder/scheduler.json" \
    2>"$folder/scheduler.log" &
while [[ ! -s "$folder/scheduler.json" ]]; do sleep 0.2; done
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$folder/scheduler.json")
for gpu in $gpus; do
    CUDA_VISIBLE_DEVICES=$gpu python -m distributed.cli.dask_worker "$address" --host 127.0.0.1 --nthreads 1 \
        --memory-limit 0 --resources GPU=1 --name "gpu$gpu" --no-dashboard --local-directory "$folder" 2>"$folder/$gpu.log" &
done
python -m companion run "$@" --device "$device" --scheduler "$address"
