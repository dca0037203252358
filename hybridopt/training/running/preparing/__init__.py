"""What is found out about a run before its model is loaded."""
