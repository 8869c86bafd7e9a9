"""What Airflow is told about this distribution: a connection type."""

from typing import Any

from . import __version__


def get_provider_info() -> dict[str, Any]:
    """As Airflow's entry point `apache_airflow_provider` asks for it."""
    return {
        "package-name": "latentlake-airflow",
        "name": "LatentLake",
        "description": "Jobs on Ray clusters through their job server, and LatentLake's embedding jobs.",
        "versions": [__version__],
        "connection-types": [
            {
                "connection-type": "ray_jobs",
                "hook-class-name": "latentlake_airflow.hook.RayJobHook",
                "hook-name": "Ray job server",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "extra"],
                    "relabeling": {"password": "Token", "schema": "Scheme"},
                    "placeholders": {"host": "ray-head.example.com", "port": "8265", "schema": "http"},
                },
            }
        ],
    }
