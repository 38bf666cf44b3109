"""The loop: tasks, batches, commits, resuming, health. The order of a commit's steps is defined only here."""
