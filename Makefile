# make demo   set everything up, then compare kernels' queues with real flows and print the verdict
# make test   set everything up, then run all tests
# make setup  the set-up alone: system packages, virtual environment, guest kernel, guest image
#
# Every step is cached and does nothing when there is nothing to do.

PYTHON ?= /usr/bin/python3
VENV   := .venv
ZDLAB  := $(VENV)/bin/zdlab
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: demo test setup packages guests clean

demo: setup
	$(ZDLAB) run topologies/vm-tbf.yaml --arms stock,zd --blocks 7

test: setup
	$(VENV)/bin/tox run

setup: guests

# dpkg-query, and not apt, decides: a warm machine needs no network.
packages:
	@missing=; for name in $$(sed 's/#.*//' packages.apt); do \
	    dpkg-query -W -f '$${db:Status-Status}' "$$name" 2>/dev/null | grep -qx installed \
	        || missing="$$missing $$name"; \
	done; \
	if [ -n "$$missing" ]; then \
	    echo "zdlab setup: installing$$missing"; \
	    $(SUDO) apt-get -q update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing; \
	fi

$(VENV)/.installed: pyproject.toml | packages
	@echo "zdlab setup: virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]" tox
	@touch $@

guests: packages $(VENV)/.installed
	@$(ZDLAB) kernels build stock
	@$(ZDLAB) kernels build zd
	@$(ZDLAB) images build

clean:
	rm -rf $(VENV) .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
