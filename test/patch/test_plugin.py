"""The hooks: installed once, thin, and nothing happens on import."""

import subprocess
import sys

import pytest

from sglang_lsm_patch import plugin

HOOKED = ("add_cli_args", "from_cli_args")


def test_registering_again_changes_nothing():
    from sglang.srt.plugins.hook_registry import HookRegistry

    def hooks():
        return {name: list(HookRegistry._hooks[f"{plugin.SERVER_ARGS}.{name}"]) for name in HOOKED}

    before = hooks()
    plugin.register()
    assert hooks() == before
    assert [len(of) for of in before.values()] == [1, 1]


def test_importing_does_nothing():
    """Fresh process: no hook, and none of SGLang's modules loaded."""
    code = (
        "import sys, sglang_lsm_patch.plugin as plugin\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'sglang']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_entry_point_is_ours():
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="sglang.srt.plugins", name="kv_storage_lsm")
    assert entry.load() is plugin.register


ENGINE = """
import sys
import sglang
from sglang.srt.entrypoints.engine import Engine

def launch(self=None, *, server_args, **rest):
    print("BACKEND", server_args.radix_cache_backend, server_args.page_size)
    raise SystemExit(7)

Engine._launch_subprocesses = launch
sglang.Engine(model_path=sys.argv[1], device="cpu", kv_storage="lsm", kv_storage_size="64MiB",
              kv_storage_path=sys.argv[2], **eval(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("{}", 7, "BACKEND lsm 64"),
        ("{'disable_radix_cache': True}", 1, "ConfigError: --kv-storage lsm cannot be combined"),
    ],
)
def test_the_first_engine_of_a_process_takes_the_arguments(tmp_path, more, code, said):
    """It loads the plugins itself, inside its constructor: a hook on that call comes too late."""
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(tmp_path), str(tmp_path / "tier"), more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert said in done.stdout + done.stderr


def test_the_cache_class_is_registered_where_the_scheduler_looks():
    code = (
        "import sglang.srt.mem_cache.registry as registry\n"
        "from sglang.srt.plugins import load_plugins\n"
        "load_plugins()\n"
        "assert registry.get_radix_cache_factory('lsm') is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


WEIGHTS = """
from types import SimpleNamespace
import sys
import sglang.srt.managers.scheduler_components.weight_updater as updater
from sglang.srt.plugins import load_plugins
from sglang_lsm_patch.plugin import WEIGHT_UPDATES

def update(name):
    def call(self, recv_req):
        said.append(name)
        self._session = {"begin_weight_update": "open", "end_weight_update": None}.get(
            name, self._session
        )
        return name
    return call

manager_class = updater.SchedulerWeightUpdaterManager
for name in WEIGHT_UPDATES:
    setattr(manager_class, name, update(name))
load_plugins()
said = []
cache = SimpleNamespace(
    weights_change=lambda: said.append("change"),
    weights_changed=lambda *, is_idle: said.append(("changed", is_idle)),
)
for tree_cache in (cache, SimpleNamespace()):
    manager = object.__new__(manager_class)
    manager._session = None
    manager.scheduler = SimpleNamespace(tree_cache=tree_cache, _engine_paused="paused")
    manager.is_fully_idle = lambda ignore_waiting: ignore_waiting
    for name in WEIGHT_UPDATES:
        assert getattr(manager, name)(None) == name
disk, ipc, begin, end = WEIGHT_UPDATES
done = ("changed", "paused")
assert said == [
    "change", disk, done, "change", ipc, done, "change", begin, "change", end, done,
    *WEIGHT_UPDATES,
], said
"""


def test_the_cache_is_told_before_weights_change_and_when_all_pieces_are_there():
    done = subprocess.run([sys.executable, "-c", WEIGHTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


STEPS = """
from types import SimpleNamespace
import sglang.srt.managers.scheduler as scheduler
from sglang.srt.plugins import load_plugins

scheduler.Scheduler._record_step_counters = lambda self, batch, result: None
load_plugins()
said = []
cache = SimpleNamespace(note_prefills=lambda **totals: said.append(totals))
for tree_cache in (cache, SimpleNamespace()):
    one = object.__new__(scheduler.Scheduler)
    one.tree_cache = tree_cache
    one.total_prefill_uncached_tokens, one.total_prefill_busy_us = 640, 2_500_000
    one._record_step_counters(None, None)
assert said == [{"num_tokens": 640, "seconds": 2.5}], said
"""


def test_the_cache_learns_how_fast_prefill_is():
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
