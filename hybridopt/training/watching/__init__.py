"""What is seen of a run while it goes on: a line on the screen, a file of records, and the bytes of real tensors."""
