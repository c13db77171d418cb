# checkvalve: what one can do here. `make` alone prints this list.
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-systemd worlds crash check format vectors bench dist deb lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.complete ## build .venv from the locked requirements (PYTHON=... chooses the interpreter)

.venv/.complete: requirements/dev.txt pyproject.toml requirements/make-venv
	@requirements/make-venv

demo: venv ## mirror an image across a lossy one-way link on this machine and compare every digest
	@$(PY) -m tests.demo

test: venv ## run all tests; as root, first installs what the system tests need
	@tests/setup/debian-packages
	@$(PY) -m pytest

test-systemd: venv ## boot two Debian systems on the one-way lab and use them; needs root (a first run downloads them)
	@tests/setup/debian-packages booted
	@$(PY) -m pytest -m booted $(ONLY) tests/systemd

worlds: venv ## 2,000 seeded worlds of the simulator with loss and power cuts (SEED=, WORLDS=)
	@$(PY) -m tests.simulator --worlds $(or $(WORLDS),2000) $(if $(SEED),--seed $(SEED)) --jobs $$(nproc)
	@CHECKVALVE_TEST_ALL_POINTS=1 $(PY) -m pytest -q tests/simulator -k points

crash: venv ## kill -9 each role 200 times during transfers in the one-way lab; needs root (SEED=, KILLS=)
	@tests/setup/debian-packages
	@$(PY) -m tests.crash --kills $(or $(KILLS),200) $(if $(SEED),--seed $(SEED))

check: venv ## ruff and mypy --strict
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy --strict

format: venv ## let ruff format the code and mend what it can
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

vectors: venv ## regenerate the test vectors; they must come out byte for byte the same
	@$(PY) -m tests.vectors

bench: venv ## measure, beside the peers; the figures are in benchmarks/README.md (BENCH=quick: three minutes)
	@tests/setup/debian-packages bench
	@benchmarks/make-venv
	@$(PY) -m benchmarks

dist: venv ## one file in dist/ that installs either side with no network (ARCH=aarch64, RELEASE_KEY=path to a PEM)
	@$(PY) -m distribution --arch $(or $(ARCH),x86_64)

deb: venv ## Debian packages of both sides, from the same tree (ARCH=aarch64, RELEASE_KEY=path to a PEM)
	@$(PY) -m distribution --deb --arch $(or $(ARCH),x86_64)

lock: ## renew versions and hashes in requirements/*.txt; needs uv (https://docs.astral.sh/uv/)
	@command -v uv >/dev/null || { echo "error: uv is not installed; see https://docs.astral.sh/uv/" >&2; exit 1; }
	@for name in runtime keyless dev bench dist sbom; do \
	  (cd requirements && uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	    --no-annotate --no-header $$name.in --output-file $$name.txt) || exit 1; done

clean: ## remove .venv, caches and the demo's state
	@rm -rf .venv .venv-bench build dist demo-state .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
