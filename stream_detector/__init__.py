"""Real-time anomaly detection beside Kafka: readings in, alerts out."""

__version__ = "0.2.0"
