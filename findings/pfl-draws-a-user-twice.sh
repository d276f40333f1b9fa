#!/usr/bin/env bash
# pfl 0.6.0, with torch 2.13.0.
# A cohort drawn by get_user_sampler("random") is drawn with replacement, user by user: one may be there twice, and then trains twice from
# the same weights and counts twice in the mean, with the same samples. FedAvg draws a set of clients. Here five of five
# users: in each of three rounds somebody is missing and somebody is there more than once. Of 50 out of 1,000, as pfl's CIFAR-10 benchmark has it, one or two are.
# What helps: a user sampler of your own, numpy's choice(users, size, replace=False) round by round; or "minimize_reuse", which goes
# through the users in their order.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 pfl==0.6.0
cat > draw.py <<'PY'
import numpy as np
import torch
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.internal.ops.selector import set_framework_module
from pfl.internal.ops import pytorch_ops

set_framework_module(pytorch_ops)
np.random.seed(0)
users = list(range(5))
data = FederatedDataset(lambda user: Dataset((torch.zeros(1, 1),), user_id=user), get_user_sampler("random", users))
for round in (1, 2, 3):
    print(f"round {round}: users", *sorted(user.user_id for user, _ in data.get_cohort(5)))
users = list(range(1000))
data = FederatedDataset(lambda user: Dataset((torch.zeros(1, 1),), user_id=user), get_user_sampler("random", users))
different = [len({user.user_id for user, _ in data.get_cohort(50)}) for _ in range(200)]
print(f"of 50 out of 1,000: {np.mean(different):.1f} different users on average")
PY
seen=$(env/bin/python draw.py)
echo "$seen"
test "$seen" = "round 1: users 0 0 2 2 4
round 2: users 1 2 4 4 4
round 3: users 1 2 2 3 3
of 50 out of 1,000: 48.9 different users on average"
