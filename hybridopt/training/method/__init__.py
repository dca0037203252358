"""How a run trains: the way that fits the memory, planned for the sequences that the run has."""
