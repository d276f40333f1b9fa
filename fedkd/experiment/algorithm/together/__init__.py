"""The trainings of many clients as one: their nets in stacks, and one step of torch.func.vmap for a step of each."""
