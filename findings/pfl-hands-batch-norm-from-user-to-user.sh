#!/usr/bin/env bash
# pfl 0.6.0, with torch 2.13.0.
# Users of a process train one net after the other, and before each the parameters are set back. The running statistics of BatchNorm are
# no parameters: each user goes on from those of the user before, they are never averaged, and what the server evaluates has those of
# whoever trained last. Here two users train, one of samples around 2, the other of samples around 102: the second starts where the first
# ended, and the first of the next round where the second ended.
# What helps: GroupNorm, or frozen statistics, as pfl's own benchmarks have them.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 pfl==0.6.0
cat > train.py <<'PY'
import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel

seen = []


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1)

    def loss(self, inputs, labels, eval=False):
        if not eval:
            seen.append(("01"[int(inputs[0, 0] >= 100)], round(self.norm.running_mean.item(), 1)))
        return (self.layer(self.norm(inputs)) - labels).square().mean()

    def metrics(self, inputs, labels, eval=True):
        return {}


np.random.seed(0)
torch.manual_seed(0)
net = Net()
users = {user: Dataset((torch.arange(6.0)[:, None] + 100 * user, torch.zeros(6, 1)), user_id=str(user)) for user in (0, 1)}
data = FederatedDataset(users.__getitem__, MinimizeReuseUserSampler([0, 1]))
model = PyTorchModel(net, local_optimizer_create=torch.optim.SGD, central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0))
FederatedAveraging().run(
    NNAlgorithmParams(central_num_iterations=2, evaluation_frequency=10, train_cohort_size=2, val_cohort_size=None),
    SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByUser()]),
    model,
    NNTrainHyperParams(local_num_epochs=2, local_learning_rate=1e-3, local_batch_size=3),
    callbacks=[],
    send_metrics_to_platform=False,
)
for round in (1, 2):
    for user in "01":
        means = [mean for who, mean in seen[8 * (round > 1) :][:8] if who == user]
        print(f"round {round}, user {user}: running mean at its first batch {means[0]}, at its last {means[-1]}")
PY
seen=$(env/bin/python train.py)
echo "$seen"
test "$seen" = "round 1, user 0: running mean at its first batch 0.0, at its last 0.5
round 1, user 1: running mean at its first batch 0.9, at its last 28.3
round 2, user 0: running mean at its first batch 35.9, at its last 26.7
round 2, user 1: running mean at its first batch 24.4, at its last 45.4"
