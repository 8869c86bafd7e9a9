# syntax=docker/dockerfile:1
# Airflow with LatentLake's provider and example DAGs:
#   docker build --file infra/docker/airflow.Dockerfile --tag latentlake-airflow:0.1.0 .
FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.12.16-slim-bookworm AS build
COPY --from=uv /uv /usr/local/bin/uv
WORKDIR /src
# The provider's wheel has the job server's client in it, which is in `clusters`.
COPY clusters clusters
COPY operators operators
COPY infra/airflow infra/airflow
RUN uv build --wheel --out-dir /dist infra/airflow

FROM apache/airflow:3.3.2-python3.12
COPY --from=build /dist /dist
COPY infra/airflow/constraints.txt /dist/constraints.txt
# The image's user is `airflow`, and stays.
RUN pip install --no-cache-dir --constraint /dist/constraints.txt /dist/*.whl
COPY infra/airflow/dags /opt/airflow/dags
