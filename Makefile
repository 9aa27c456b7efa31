# One command for a newcomer (demo), one for CI (test), one before a commit (check).
#
#   make demo                 the whole road on configs/toyworld.yaml: data, student, training, export, report, pictures
#   make test                 everything CI checks; tests/test_policies.py runs ruff and mypy, so lint, format and types are in it
#   make check                the same in the order that fails soonest: lint, types, tests
#   make demo-emoji           the same road on configs/emojiworld.yaml: 300 things with real names, most of them rare
#   make demo-web             the demo's export on a page in the browser: Japanese beside English
#   make compare-objectives   the road with the reference's position-wise loss and with the default one; prints the table of both
#   make pack                 the ComfyUI nodes' copy of distill/prompt.py is brought up to date
#   make clean                removes caches and build leftovers; runs/ and the virtual environment stay
#
# RECIPE and SETTINGS choose another recipe and overrides:  make demo SETTINGS='distill.steps=100 run=runs/short'

SHELL := /bin/bash
RECIPE ?= configs/toyworld.yaml
SETTINGS ?=
PYTHON := .venv/bin/python
# A stamp, not the folder: it is touched only after an installation that succeeded.
INSTALLED := .venv/.installed
# A second environment, the stack of users who stayed on transformers 4: exports must load there too. All else is borrowed from .venv.
V4 := .venv-v4/.installed
V4_STACK := transformers==4.57.6 diffusers==0.35.2 huggingface_hub==0.36.2 tokenizers==0.22.2
# The invisible watermark is tested there alone: its package asks for opencv-python, which loads only where a desktop's libGL is, and then
# no SDXL pipeline loads without it either. The headless one is the same for our purpose.
V4_MARK := invisible-watermark==0.2.0 'opencv-python-headless>=4.10,<5' PyWavelets
ROAD := corpora.prepare vocab_init distill.train distill.export eval.compare_hidden_states eval.generate distill.model_card eval.summary

# $(call travel,overrides): every stage in order; a stage already finished for the same settings says so and does nothing.
define travel
@for stage in $(ROAD); do \
    echo "== python -m $$stage $(RECIPE) $(1)"; \
    $(PYTHON) -m $$stage $(RECIPE) $(1) || exit $$?; \
done
endef

.PHONY: demo demo-emoji demo-web test check lint types pack clean compare-objectives

demo: $(INSTALLED)
	$(call travel,$(SETTINGS))

demo-emoji:
	$(MAKE) demo RECIPE=configs/emojiworld.yaml

# gradio comes with the dev extra, which is what is installed.
demo-web: $(INSTALLED)
	$(PYTHON) -m demo runs/toyworld/export

compare-objectives: $(INSTALLED)
	$(PYTHON) -m eval.ablate $(RECIPE) $(SETTINGS) --at-once 2 \
	    --vary distill.objective '{position: 1}' '{cross_attention: 1}'

# Two files of tests at a time: most of them wait for programs that use one core. In the order of tests/conftest.py: the longest first.
test: $(INSTALLED) $(V4)
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint types test

lint: $(INSTALLED)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(INSTALLED)
	$(PYTHON) -m mypy

pack:
	cp distill/prompt.py comfyui/prompt.py

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# python3.11 first; any other python3 that is new enough will do.
$(INSTALLED): pyproject.toml
	@python=$$(command -v python3.11 || command -v python3 || true); \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "make: Python 3.11 or newer is needed and neither python3.11 nor python3 is one; install it and run make again" >&2; exit 1; \
	fi; \
	"$$python" -m venv .venv
	$(PYTHON) -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

$(V4): $(INSTALLED) Makefile
	$(PYTHON) -m venv --clear .venv-v4
	$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > $$(.venv-v4/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth
	.venv-v4/bin/python -m pip install --disable-pip-version-check --no-deps --ignore-installed $(V4_STACK) $(V4_MARK)
	@touch $@
