"""Ray jobs from Airflow, through Ray's job server: no Ray in Airflow's environment. And LatentLake's jobs and commands on them."""

__version__ = "0.1.0"
