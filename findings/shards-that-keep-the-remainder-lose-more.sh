#!/usr/bin/env bash
# flwr-datasets 0.6.1.
# `ShardPartitioner(num_shards_per_partition=..., keep_incomplete_shard=True)` is to keep the samples that fill no whole shard. With 103
# samples, five partitions and two shards each it deals 93; with `False`, which drops them on purpose, it deals 100.
# What helps: count what was dealt, and say it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet flwr==1.41.0 flwr-datasets==0.6.1
cat > deal.py <<'PY'
from datasets import Dataset
from flwr_datasets.partitioner import ShardPartitioner

for keep in (True, False):
    dealer = ShardPartitioner(5, "label", num_shards_per_partition=2, keep_incomplete_shard=keep, seed=0)
    dealer.dataset = Dataset.from_dict({"label": [row % 2 for row in range(103)]})
    print(f"keep_incomplete_shard={keep}:", sum(len(dealer.load_partition(part)) for part in range(5)))
PY
seen=$(HF_HUB_OFFLINE=1 env/bin/python -W ignore deal.py 2>/dev/null)
echo "$seen"
test "$seen" = "keep_incomplete_shard=True: 93
keep_incomplete_shard=False: 100"
