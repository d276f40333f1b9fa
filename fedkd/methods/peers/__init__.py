"""What lockstep peers share: a round of mini-batches that all take, and an exchange of outputs on each."""
