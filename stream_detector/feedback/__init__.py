"""What people say of alerts, and what becomes of it."""
