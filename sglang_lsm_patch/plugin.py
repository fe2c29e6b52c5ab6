"""Entry point `kv_storage_lsm` of SGLang's plugin group: hooks only, no policy.

SGLang calls `register` once in each of its processes, before arguments are parsed. It only logs
what a plugin raises, so nothing here can fail on purpose; refusals come from `launch`.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

from sglang_lsm_patch import flags, launch
from sglang_lsm_patch.resolve import RADIX_CACHE_BACKEND

SERVER_ARGS = "sglang.srt.server_args.ServerArgs"
ENGINE_MODULE = "sglang.srt.entrypoints.engine"
REGISTRY_MODULE = "sglang.srt.mem_cache.registry"
SCHEDULER_MODULE = "sglang.srt.managers.scheduler"
WEIGHTS_MODULE = "sglang.srt.managers.scheduler_components.weight_updater"
WEIGHT_UPDATES = (
    "update_weights_from_disk",
    "update_weights_from_ipc",
    # Tensors sent from elsewhere come in pieces, between these two.
    "begin_weight_update",
    "end_weight_update",
)
"""Methods of SGLang's weight updater after which a token's KV is another."""


@functools.cache
def register() -> None:
    """Install the hooks in this process, once."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(f"{SERVER_ARGS}.add_cli_args", _add_cli_args, HookType.AFTER)
    HookRegistry.register(f"{SERVER_ARGS}.from_cli_args", _from_cli_args, HookType.AROUND)
    _hook_engine()
    _register_radix_cache()
    if WEIGHTS_MODULE in sys.modules:
        for name in WEIGHT_UPDATES:
            target = f"{WEIGHTS_MODULE}.SchedulerWeightUpdaterManager.{name}"
            HookRegistry.register(target, _around_weight_update, HookType.AROUND)
    if SCHEDULER_MODULE in sys.modules:
        target = f"{SCHEDULER_MODULE}.Scheduler._record_step_counters"
        HookRegistry.register(target, _after_step, HookType.AFTER)


def _add_cli_args(_result: None, parser: argparse.ArgumentParser) -> None:
    flags.add_flags(parser)


def _from_cli_args(original: Callable[..., Any], cls: type, args: argparse.Namespace) -> Any:
    return original(cls, launch.from_namespace(args))


def _around_weight_update(
    original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any
) -> Any:
    cache = getattr(manager.scheduler, "tree_cache", None)
    if not hasattr(cache, "weights_change"):
        # Upstream's cache: the tier is off.
        return original(manager, *args, **kwargs)
    cache.weights_change()
    try:
        return original(manager, *args, **kwargs)
    finally:
        # None but between `begin_weight_update` and `end_weight_update`, when pieces go on coming.
        if manager._session is None:
            # A paused server may be emptied with requests waiting, as SGLang itself has it.
            is_idle = manager.is_fully_idle(ignore_waiting=manager.scheduler._engine_paused)
            cache.weights_changed(is_idle=is_idle)


def _after_step(_result: None, scheduler: Any, *_args: Any, **_kwargs: Any) -> None:
    note = getattr(getattr(scheduler, "tree_cache", None), "note_prefills", None)
    if note is not None:
        note(
            num_tokens=scheduler.total_prefill_uncached_tokens,
            seconds=scheduler.total_prefill_busy_us / 1e6,
        )


def _hook_engine() -> None:
    """Let `sgl.Engine(kv_storage=...)` through, by the seam that SGLang keeps for forks.

    A BEFORE hook on `Engine.__init__` would miss the first engine of a process, because it is that
    very call that loads the plugins. Only where the module is loaded already: importing it costs
    seconds, and the server's own processes never build an `Engine`.
    """
    engine = getattr(sys.modules.get(ENGINE_MODULE), "Engine", None)
    if engine is not None:
        original = engine.server_args_class
        engine.server_args_class = staticmethod(
            lambda **arguments: original(**launch.from_engine_arguments(arguments))
        )


def _register_radix_cache() -> None:
    """Name our cache class in the registry that a scheduler process looks it up in.

    The scheduler's module has loaded the registry before it loads plugins. Elsewhere the import
    would cost seconds, and come before SGLang has set the environment that its modules read.
    """
    registry = sys.modules.get(REGISTRY_MODULE)
    if registry is not None:
        registry.register_radix_cache_backend(RADIX_CACHE_BACKEND, _build_radix_cache)


def _build_radix_cache(ctx: Any) -> Any:
    from sglang.srt.mem_cache.registry import create_unified_radix_cache

    from sglang_lsm_patch.radix_cache import LsmRadixCache

    return create_unified_radix_cache(ctx, cache_class=LsmRadixCache)
