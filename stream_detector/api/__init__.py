"""What `stream_detector` offers to programs, made of the other rooms: train, backtest, Worker, Estimator.

readings    what counts as readings: arrays, tables, recordings, single readings
offline     train and backtest in memory
estimator   a detector with scikit-learn's verbs
worker      a worker with its ports, in memory or on Kafka and Redis; verdict_worker reads verdicts beside it

Import the names from `stream_detector` itself, which loads them when they are first used (docs/library.md).
"""
