"""Windows -> scores: batches and devices."""
