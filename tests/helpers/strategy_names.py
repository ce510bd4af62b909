"""Strategies that take any optimizer: what tests of all strategies with one optimizer run over."""

from __future__ import annotations

from optex_core.strategies.base import STRATEGIES

STRATEGY_NAMES = sorted(name for name, kind in STRATEGIES.items() if kind.any_optimizer)
