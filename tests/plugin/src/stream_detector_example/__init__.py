"""What another package adds to stream-detector: one detector, one threshold method, one reader."""
