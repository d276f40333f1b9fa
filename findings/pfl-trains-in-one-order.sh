#!/usr/bin/env bash
# pfl 0.6.0, with torch 2.13.0.
# A user's batches are cut from its data as they lie: in the same order in every epoch and every round. The option of local epochs thus
# goes over the very same batches again, where other libraries shuffle; who sorted a user's samples by class trains on batches of one class.
# What helps: to give `FederatedDataset` a function that makes the user's data set with its samples in a new order; it is called in each
# round, though not in each epoch.
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
        self.layer = torch.nn.Linear(1, 1)

    def loss(self, inputs, labels, eval=False):
        if not eval:
            seen.append(inputs[:, 0].int().tolist())
        return (self.layer(inputs) - labels).square().mean()

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
for epoch in range(0, len(seen), 2):
    print(*seen[epoch : epoch + 2])
PY
seen=$(env/bin/python train.py)
echo "$seen"
test "$seen" = "[0, 1, 2] [3, 4, 5]
[0, 1, 2] [3, 4, 5]
[100, 101, 102] [103, 104, 105]
[100, 101, 102] [103, 104, 105]
[0, 1, 2] [3, 4, 5]
[0, 1, 2] [3, 4, 5]
[100, 101, 102] [103, 104, 105]
[100, 101, 102] [103, 104, 105]"
