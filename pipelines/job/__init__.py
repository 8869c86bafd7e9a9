"""What is asked for: the job and the job file."""
