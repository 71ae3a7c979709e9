#!/bin/sh
# GPT-2 124M on ten billion tokens of FineWeb-Edu, on the GPUs of one computer: shards first (some hours, 20 GB), then
# the run, forty minutes on eight H100 if 45 % of their peak is used. It goes on from its last checkpoint when it is
# started again, and starts itself again, up to three times, when a process dies.
#
#     sh runs/gpt2_124m.sh [GPUS] [more options of train_gpt2]
set -eu
# otherwise torchrun tells processes that it restarts where the dead ones were
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
gpus=${1:-8}
[ $# -gt 0 ] && shift

python -m zerohero.prepare_shards fineweb-edu --tokens 10B --tokenizer gpt2 --out shards
exec torchrun --standalone --nproc_per_node="$gpus" --max-restarts=3 -m zerohero.train_gpt2 \
    --preset gpt2-rope --data shards --out gpt2-124m --hellaswag Rowan/hellaswag --resume "$@"
