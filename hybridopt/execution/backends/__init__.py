"""Ways to carry out updates: one backend a file, found by name; `core.contracts.Backend` is the contract."""
