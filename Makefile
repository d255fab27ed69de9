# What a person and a CI machine run alike. Every target installs what it needs into .venv first:
# with uv when it is there (exactly what uv.lock says), else with venv and pip. `make UV= …` leaves uv out, as does
# a uv that cannot reach what the lock names while pip, with an index of its own, can.

UV ?= $(shell command -v uv 2>/dev/null)
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
BIN := .venv/bin
RUN := .venv/.installed-run
DEV := .venv/.installed-dev
# More than cores: tests of processes wait more than they compute.
JOBS ?= 4
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal

# uv brings its own certificates; those of the machine also know a company's proxy.
export UV_NATIVE_TLS = 1
export UV_SYSTEM_CERTS = 1
# Where this is set, every process of every test compiles the project and its tests anew: empty means unset.
export PYTHONDONTWRITEBYTECODE =

MODEL ?=
ENGINE ?=
PORT ?= 8080
STATE ?=
CONFIG ?=
AGAINST ?=
N ?= 20000

.PHONY: help up server install check format test test-all test-random test-faults test-recipes test-voice fuzz soak bench bench-placement newest package docs clean

help:
	@echo "make up [MODEL=path-or-id] [PORT=8080] [STATE=dir]   start everything; point clients at the printed URL"
	@echo "make server      the same, with LiteLLM's proxy in front of it on port 4000 (LITELLM_PORT=)"
	@echo "make test        checks and tests        make test-all    the slow ones too"
	@echo "make test-faults what becomes of answers when workers, gateways, Macs, Redis and networks fail"
	@echo "make test-recipes   LiteLLM, LlamaIndex, OpenCode, Qwen Code, pi, Aider, vllm-mlx installed and run (2.3 GB; Linux 8.5 GB)"
	@echo "make test-voice  a real voice is heard, answered and heard again in a browser (300 MB)"
	@echo "make fuzz N=50000   what no client sends      make soak N=20000   short requests with a fault every fifty"
	@echo "make check       format, lint, types, import contract"
	@echo "make bench       tables of speed         make install     set up .venv for development"
	@echo "make package     a wheel, its sources, a Homebrew formula and, on a Mac, its app in dist/"
	@echo "make docs        the documentation as pages that work offline, in build/site/"
	@echo "make newest      the newest mlx and mlx-lm against what we rely on, in an environment of its own"
	@echo "make bench AGAINST=REV   the same figures of revision REV and of this one, in turns"
	@echo "make bench-placement   where requests go on several simulated Macs, beside other rules"

up: $(RUN)
	@exec $(BIN)/mlx-gateway up --port $(PORT) $(if $(MODEL),--model "$(MODEL)") $(if $(ENGINE),--engine $(ENGINE)) \
		$(if $(STATE),--state "$(STATE)") $(if $(CONFIG),--config "$(CONFIG)")

# In an environment of its own, which nothing else needs, and with a key of its own. It asks nobody for a list of prices.
LITELLM := litellm[proxy]==1.108.7
LITELLM_PORT ?= 4000
server: $(RUN) build/litellm/installed build/litellm/key
	@sed 's,127.0.0.1:8080,127.0.0.1:$(PORT),' deploy/litellm.yaml > build/litellm/config.yaml
	@trap : INT TERM; \
	LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_MASTER_KEY="$$(cat build/litellm/key)" build/litellm/bin/litellm \
		--config build/litellm/config.yaml --host 127.0.0.1 --port $(LITELLM_PORT) >build/litellm/log 2>&1 & proxy=$$!; \
	echo "LiteLLM on http://127.0.0.1:$(LITELLM_PORT), its key in build/litellm/key, its log in build/litellm/log"; \
	$(BIN)/mlx-gateway up --port $(PORT) $(if $(MODEL),--model "$(MODEL)") $(if $(ENGINE),--engine $(ENGINE)) \
		$(if $(STATE),--state "$(STATE)") $(if $(CONFIG),--config "$(CONFIG)"); ended=$$?; \
	kill $$proxy 2>/dev/null; wait $$proxy; exit $$ended

build/litellm/installed: $(RUN)
	@test -x build/litellm/bin/python || $(BIN)/python -m venv build/litellm
	@build/litellm/bin/python -m pip install --quiet '$(LITELLM)' && touch $@

build/litellm/key: | build/litellm/installed
	@(umask 077 && $(BIN)/python -c 'import secrets; print("sk-" + secrets.token_urlsafe(24))' >$@)

install: $(DEV)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check
	$(PYTEST) -m "not slow and not faults and not recipes"

test-all: test
	$(PYTEST) -m slow
	$(PYTEST) -m thorough --hypothesis-profile=thorough
	$(MAKE) test-faults

# Properties on examples that no run before had: what fails goes into the test as an @example.
test-random: $(DEV)
	$(PYTEST) -m "hypothesis and not slow" --hypothesis-profile=random

test-faults: $(DEV)
	$(BIN)/pytest -n 2 --dist loadfile -m faults tests/faults

# LiteLLM and LlamaIndex themselves, with what docs/clients.md says, and the coding agents: 2.3 GB are installed; and
# vllm-mlx, which is 6.2 GB on Linux.
test-recipes: $(DEV)
	$(BIN)/pytest -m recipes tests/clients

# A voice of Piper's and a Whisper, in the page of voice: what one says is what the other hears.
test-voice: $(DEV)
	$(BIN)/pytest -s -o faulthandler_timeout=0 -m voice tests/console

# N requests of chance at every route, what schemathesis makes of /openapi.json, and bytes of chance in Redis.
fuzz: $(DEV) build/schemathesis/bin/st
	$(BIN)/python -m tests.faults fuzz --requests $(N) --schemathesis build/schemathesis/bin/st

# N short requests with a fault every fifty, in the background: the tables are in build/soak.txt when it has ended.
soak: $(DEV)
	@mkdir -p build
	@nohup $(BIN)/python -m tests.faults soak --requests $(N) > build/soak.txt 2>&1 & echo "see build/soak.txt"

build/schemathesis/bin/st:
	$(BIN)/python -m venv build/schemathesis
	build/schemathesis/bin/pip install --quiet schemathesis==4.32.5

bench: $(DEV)
	$(BIN)/python -m tests.bench $(if $(AGAINST),against "$(AGAINST)")

# In an environment of its own, which nothing else needs. The builder reads mkdocs.yml.
ZENSICAL := zensical==0.0.30
docs: $(DEV)
	@test -x build/docs-env/bin/zensical || { $(BIN)/python -m venv build/docs-env \
		&& build/docs-env/bin/pip install --quiet $(ZENSICAL); }
	@rm -rf build/pages build/site
	@$(BIN)/python -m tests.site pages build/pages
	@build/docs-env/bin/zensical build >build/docs.log 2>&1 || { cat build/docs.log; exit 1; }
	@$(BIN)/python -m tests.site check build/site
	@echo "open build/site/index.html"

newest: $(DEV)
	$(BIN)/python -m tests.newest

package:
ifneq ($(UV),)
	$(UV) build --quiet --out-dir dist
else
	@$(MAKE) --no-print-directory .venv/bin/pip
	$(BIN)/pip install --quiet build
	$(BIN)/python -m build --outdir dist
endif
	@$(or $(PYTHON),python3) -m deploy.homebrew "$$(ls -t dist/mlx_gateway-*.tar.gz | head -1)" >/dev/null && ls dist
	@$(or $(PYTHON),python3) -m deploy.macos "$$(ls -t dist/mlx_gateway-*.whl | head -1)"

bench-placement: $(DEV)
	$(BIN)/python -m tests.bench.placement

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(RUN): pyproject.toml uv.lock
ifneq ($(UV),)
	$(UV) sync --quiet --frozen --inexact --no-dev --extra mlx --extra gguf || $(MAKE) --no-print-directory UV= $@
else
	@$(MAKE) --no-print-directory .venv/bin/pip
	$(BIN)/pip install --quiet --editable '.[mlx,gguf]'
endif
	@touch $@

$(DEV): pyproject.toml uv.lock
ifneq ($(UV),)
	$(UV) sync --quiet --frozen --extra mlx --extra gguf || $(MAKE) --no-print-directory UV= $@
else
	@$(MAKE) --no-print-directory .venv/bin/pip
	$(BIN)/pip install --quiet --editable '.[mlx,gguf]' --group dev
endif
	@touch $@ $(RUN)

# pip 25.1 is the first that knows dependency groups.
.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed (or uv, which brings one)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
