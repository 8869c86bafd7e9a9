# `make demo` and `make test` set up .venv by themselves; they need Python >= 3.11 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test check lint bench acceptance notebooks faults soak fuzz test-airflow clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# Four workers keep the two cores that this is meant for busy: some tests wait, for processes and for stores that fail.
# One of the workers runs all that needs Ray (tests/schedule.py).
test: $(STAMP)
	$(BIN)/python -m pytest tests -n 4 --dist loadfile

check: lint
	$(BIN)/python -m pytest tests -q -m "not slow" -n 4 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/text_throughput.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/nightly.py --cost $(or $(TABLES),/tmp/latentlake-nightly) --sizes 100000 1000000 10000000

# The whole matrix of faults, of which `make test` holds a sample; it ends with a table of what was survived.
faults: $(STAMP)
	$(BIN)/python -m pytest tests/faults --faults --timeout 900 -W ignore -n 2 --dist loadgroup

# make soak [MINUTES=10] [SEED=0]: random jobs, kills and concurrent readers.
soak: $(STAMP)
	$(BIN)/python tests/faults/soak.py --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0)

# make fuzz [MINUTES=10] [SEED=0]: damaged files through every reader and decoder.
fuzz: $(STAMP)
	$(BIN)/python tests/fuzz/fuzz.py --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0)

# make test-airflow [RUNS=1] [ARGS=…]: the operators in an Airflow of their own, against a real Ray cluster; the scheduled run RUNS times.
AIRFLOW := .venv-airflow/bin
test-airflow: $(STAMP) .venv-airflow/.installed
	rm -rf build/airflow
	$(BIN)/uv build --quiet --wheel --out-dir build/airflow infra/airflow
	$(BIN)/uv pip install --quiet --python $(AIRFLOW)/python --no-deps --reinstall build/airflow/*.whl
	RUNS=$(or $(RUNS),1) $(BIN)/python infra/airflow/tests/with_ray.py \
		$(abspath $(AIRFLOW))/python -m pytest -c infra/airflow/pyproject.toml infra/airflow/tests $(ARGS)

.venv-airflow/.installed: $(STAMP) infra/airflow/constraints.txt
	test -x $(AIRFLOW)/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-airflow
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(AIRFLOW)/python --requirement infra/airflow/constraints.txt
	touch $@

# The notebooks of examples/notebooks, of which `make test` runs the quick ones.
notebooks: $(STAMP)
	LATENTLAKE_NOTEBOOKS=1 $(BIN)/python -m pytest tests/test_notebooks.py --timeout 900

# make acceptance [ISSUE=n]: the measurable acceptance lines of issue n and of every later one.
acceptance: $(STAMP)
	$(BIN)/python -m tests.acceptance --since $(or $(ISSUE),2)

# With bytecode, which uv does not write by itself: without it a process that may write none compiles torch and transformers each time.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf .venv .venv-airflow demo-lake build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
