"""How one update is carried out: update, state, task, slices; backends, and the choice of one (README.md)."""
