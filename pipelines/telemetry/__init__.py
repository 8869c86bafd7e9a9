"""What a run tells while it works, and of itself: metrics, log lines, spans."""
