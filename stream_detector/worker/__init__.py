"""The loop: tasks, batches, commits, resuming, health. It alone knows the order of a commit."""
