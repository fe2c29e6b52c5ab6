"""What happens between the operator's arguments and SGLang's `ServerArgs`."""

import argparse
import logging
import sys
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from sglang_lsm.errors import StoreError

from sglang_lsm_patch import preflight, resolve
from sglang_lsm_patch.compat import require_compatible
from sglang_lsm_patch.flags import EXPLICIT, FIELDS, FURTHER_FIELDS, WATCHED
from sglang_lsm_patch.options import TierOptions, parse_options

logger = logging.getLogger(__name__)


def from_namespace(namespace: argparse.Namespace) -> argparse.Namespace:
    """Return the namespace that SGLang's `ServerArgs.from_cli_args` shall see.

    Ends the process with exit code 2 and one message when the disk tier cannot be had: an exception
    would arrive as a traceback, and only after this point does the model load.
    """
    given = dict(vars(namespace))
    asked, further = _take_asked(given)
    explicit = given.pop(EXPLICIT, None)
    if explicit is None:
        # Not from one of our parsers: a value that is not the default can only have been given.
        explicit = {name for name in WATCHED if _differs_from_default(name, given)}
    try:
        return argparse.Namespace(
            **{**given, **_fields(parse_options(*asked, further=further), given, explicit)}
        )
    except StoreError as error:
        _refuse(error)


def from_engine_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that SGLang's `ServerArgs` shall see in `sgl.Engine(...)`.

    Raises:
        ConfigError, FormatVersionError, UnavailableError: the disk tier cannot be had.
    """
    given = dict(arguments)
    asked, further = _take_asked(given)
    return {**given, **_fields(parse_options(*asked, further=further), given, set(given))}


def _take_asked(given: dict[str, Any]) -> tuple[list[object], dict[str, object]]:
    """Take our own fields out of `given`; return them as `parse_options` wants them."""
    asked = [given.pop(name, None) for name in FIELDS]
    return asked, {option: given.pop(name, None) for name, option in FURTHER_FIELDS.items()}


def _fields(
    options: TierOptions | None, given: Mapping[str, object], explicit: Collection[str]
) -> dict[str, object]:
    if options is None:
        return {}
    require_compatible()
    resolve.require_no_conflict(given)
    tier = preflight.settings(
        options,
        model=resolve.model_source(given),
        num_ranks=resolve.ranks_on_node(given),
    )
    preflight.require_openable(tier)
    if given.get("page_size") == 1:
        logger.warning("each token becomes a page of its own on disk. page_size=1")
    return resolve.stock_fields(given, explicit, tier, on_cpu=_on_cpu(given))


def _on_cpu(given: Mapping[str, object]) -> bool:
    device = given.get("device")
    if device is not None:
        return str(device).split(":", maxsplit=1)[0] == "cpu"
    from sglang.srt.utils.common import is_cpu

    return bool(is_cpu())


def _differs_from_default(name: str, given: Mapping[str, object]) -> bool:
    from sglang.srt.server_args import _declared_default

    return name in given and given[name] != _declared_default(name)


def _refuse(error: StoreError) -> NoReturn:
    sys.stderr.write(f"error: --kv-storage: {error}\n")
    raise SystemExit(2) from None
