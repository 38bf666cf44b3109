"""The ports in memory, for backtests and tests: a log with groups, a store with versions."""
