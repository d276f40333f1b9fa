"""The virtual clock: simulated seconds from counted operations, counted bytes and the clients' devices."""
