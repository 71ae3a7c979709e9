#!/bin/sh
# The same run on several computers: start this on each of them, with the name or address of the first and their
# number. All must see the folders shards and gpt2-124m, and reach port 29500 of the first.
#
#     sh runs/gpt2_nodes.sh FIRST NODES [GPUS of each] [more options of train_gpt2]
set -eu
# otherwise torchrun tells processes that it restarts where the dead ones were
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
first=$1 nodes=$2 gpus=${3:-8}
shift 2
[ $# -gt 0 ] && shift

exec torchrun --nnodes="$nodes" --nproc_per_node="$gpus" --max-restarts=3 \
    --rdzv_backend=c10d --rdzv_id=gpt2 --rdzv_endpoint="$first:29500" -m zerohero.train_gpt2 \
    --preset gpt2-rope --data shards --out gpt2-124m --hellaswag Rowan/hellaswag --resume "$@"
