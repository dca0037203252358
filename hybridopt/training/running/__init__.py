"""A run carried out: rehearsed, loaded, trained, resumed."""
