"""What is special to the library TRL: tasks that its trainers do."""
