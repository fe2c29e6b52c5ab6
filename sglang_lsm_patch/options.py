"""What the operator asked for, and what travels to the worker processes.

`TierOptions` holds the `--kv-storage*` values as given; `TierSettings` is their resolved form,
plain JSON inside SGLang's extra config, the same in every rank.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from sglang_lsm.config import (
    MIB,
    Admission,
    Codec,
    Eviction,
    IndexConfig,
    LogConfig,
    StoreConfig,
    Tuning,
    from_mapping,
)
from sglang_lsm.errors import ConfigError

BACKENDS = ("lsm",)
DEFAULT_SIZE = "50%"
DEFAULT_WRITE_POLICY = "evict"
Gate = Literal["auto", "off"]
GATES: tuple[Gate, ...] = ("auto", "off")
"""Whether hits that are faster computed than loaded are declined; `off` loads every hit."""
TUNINGS: tuple[Tuning, ...] = get_args(Tuning)
CODECS: tuple[Codec, ...] = get_args(Codec)
DEFAULT_TUNE: Tuning = "off"
WRITE_POLICIES: dict[str, str | None] = {
    "evict": None,
    "through": "write_through",
    "selective": "write_through_selective",
}
"""When pages are written to disk, and the write policy of SGLang's host tier that this needs.

`evict`: when they leave the host tier. `through`: as soon as they are computed. `selective`: on
their second hit. `evict` works with each policy of the host tier.
"""
HOSTS = ("on", "off")
"""Whether host memory is a tier, or only what pages pass through between device and disk."""
EXTRA_CONFIG_KEY = "kv_storage"
"""Where the resolved settings stand inside SGLang's `storage_config.extra_config`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfig:
    """How pages reach the disk under the write policy `evict`."""

    delay_s: float = 30.0
    """Age at which a page is written although nothing needs its place. Longer: fewer pages are
    written that nobody asks for again; a kill -9 loses more."""
    pages_per_hit: float = 16.0
    """Most pages to write for one that comes back, by kind of page as learned; infinity writes all.
    Larger: more hits, more bytes written; a kill -9 loses less. See `Admission`."""
    flush_writes: bool = False
    """Whether emptying the host tier (`/flush_cache`) writes its pages first."""
    ahead_share: float = 0.125
    """Share of the host tier, free or coldest, that can be given up without a copy; more where more
    is given up at once, see `AheadQueue`. Larger: the first bursts cost the scheduler less; pages
    are written earlier, some of which would have been hit again."""
    behind_bytes_per_s: int = 64 * MIB
    """Rate of writing pages that nothing needs the place of. Larger: a kill -9 loses less; reads
    find a busier disk."""
    staging_bytes: int = 64 * MIB
    """Memory for pages whose place is needed before they are written, 32 pages at least; as much
    again for those that leave the device without a copy. Pages that find it full are forgotten."""
    flush_timeout_s: float = 10.0
    """Longest a shutdown or a flush waits for the disk. SGLang kills a process after 15 s."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that cannot work."""
        if not 0.0 <= self.ahead_share <= 1.0:
            raise ConfigError(f"ahead_share must be 0 to 1. value={self.ahead_share}")
        if not self.pages_per_hit >= 1.0:
            raise ConfigError(f"pages_per_hit must be at least 1. value={self.pages_per_hit}")
        for name in ("delay_s", "behind_bytes_per_s", "staging_bytes", "flush_timeout_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative. value={getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierConfig:
    """The object of `--kv-storage-config`."""

    min_free: str = "5%"
    """Free space to leave on the file system, like `20GB` or a share of it. The tier shrinks rather
    than go below."""
    eviction: Eviction = "reuse"
    """Which pages leave when room is needed, see `StoreConfig`."""
    gate: Gate = "auto"
    """`auto` loads of a hit what is faster than computing it, `off` all of it."""
    admission: Admission = "first"
    """On which offer pages are written, see `StoreConfig`."""
    tune: Tuning = DEFAULT_TUNE
    """`auto` tunes what is not set here to the workload, `observe` says what it would do."""
    log: LogConfig = field(default_factory=LogConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    write: WriteConfig = field(default_factory=WriteConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Everything on the command line that decides the KV of a token, as given; empty when not.

    By SGLang's names. One too many here costs misses when it is changed; one too few, wrong hits.
    What changes a sum only by the order of its terms (kernels, parallelism) is left out.
    """

    # What the weights are, and how they are read.
    model_path: str = ""
    revision: str = ""
    load_format: str = ""
    model_loader_extra_config: str = ""
    download_dir: str = ""
    trust_remote_code: str = ""
    model_impl: str = ""
    model_config_parser: str = ""
    json_model_override_args: str = ""
    context_length: str = ""
    is_embedding: str = ""
    enable_multimodal: str = ""
    language_only: str = ""
    decrypted_config_file: str = ""
    decrypted_draft_config_file: str = ""
    custom_weight_loader: str = ""
    weight_cache_mode: str = ""
    forward_hooks: str = ""

    # In which numbers they are kept and computed with.
    dtype: str = ""
    quantization: str = ""
    quantization_param_path: str = ""
    kv_cache_dtype: str = ""
    qsa_indexer_dtype: str = ""
    prefill_kv_cache_dequant_dtype: str = ""
    modelopt_quant: str = ""
    modelopt_checkpoint_restore_path: str = ""
    quantize_and_serve: str = ""
    rl_quant_profile: str = ""
    rl_on_policy_target: str = ""
    enable_tf32_matmul: str = ""
    enable_quant_communications: str = ""
    moe_runner_backend: str = ""
    flashinfer_mxfp4_moe_precision: str = ""
    enable_w4a4_mxfp4_megamoe: str = ""
    deepep_dispatcher_output_dtype: str = ""
    enable_deepseek_v4_fp4_indexer: str = ""
    kt_weight_path: str = ""
    kt_method: str = ""
    kt_num_gpu_experts: str = ""
    kt_max_deferred_experts_per_token: str = ""

    # Which layers have which pool, and what attention writes there.
    attention_backend: str = ""
    prefill_attention_backend: str = ""
    decode_attention_backend: str = ""
    dsa_prefill_backend: str = ""
    dsa_decode_backend: str = ""
    dsv4_prefill_backend: str = ""
    dsv4_attn_backend: str = ""
    disable_hybrid_swa_memory: str = ""
    enable_unified_memory: str = ""
    enable_page_major_kv_layout: str = ""
    c128_page_size: str = ""
    enable_dsa_cache_layer_split: str = ""
    enable_encoder_swa_bounded_replay: str = ""
    enable_decoder_swa_bounded_replay: str = ""
    enable_hisparse: str = ""
    hisparse_config: str = ""
    mamba_ssm_dtype: str = ""
    enable_mamba_cache_stochastic_rounding: str = ""
    mamba_cache_philox_rounds: str = ""
    enable_int8_mamba_checkpoint: str = ""
    enable_linear_replayssm: str = ""
    dllm_algorithm: str = ""
    dllm_algorithm_config: str = ""

    # What becomes of an image before the model sees it.
    mm_process_config: str = ""
    image_processor_backend: str = ""
    disable_fast_image_processor: str = ""
    trust_mm_content_hashes: str = ""
    enable_precise_embedding_interpolation: str = ""

    # Models beside it.
    lora_paths: str = ""
    """JSON of names to paths, in whatever form they were given."""
    lora_target_modules: str = ""
    experts_shared_outer_loras: str = ""
    uno_lora_path: str = ""
    speculative_algorithm: str = ""
    speculative_draft_model_path: str = ""
    speculative_draft_model_revision: str = ""
    speculative_draft_load_format: str = ""
    speculative_draft_model_quantization: str = ""
    speculative_draft_kv_cache_dtype: str = ""
    speculative_enable_w4a4_mxfp4_megamoe: str = ""
    speculative_draft_window_size: str = ""
    speculative_draft_sink_size: str = ""
    speculative_dflash_block_size: str = ""
    speculative_dspark_block_size: str = ""
    speculative_num_steps: str = ""
    enable_multi_layer_eagle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSettings:
    """The resolved settings of one rank's store."""

    path: str
    """Absolute; each rank keeps a folder of its own below."""
    quota_bytes: int
    """Of one rank."""
    min_free_bytes: int
    log: LogConfig
    index: IndexConfig
    model: ModelSource
    eviction: Eviction = "reuse"
    gate: Gate = "auto"
    host: str = "on"
    admission: Admission = "first"
    tune: Tuning = DEFAULT_TUNE
    operator_set: str = ""
    """Settings that the operator wrote down, which are never tuned: `log.io_mode,admission`."""
    write_policy: str = DEFAULT_WRITE_POLICY
    write: WriteConfig = field(default_factory=WriteConfig)

    def store_config(self) -> StoreConfig:
        """Return the engine's settings. Raises ConfigError."""
        return StoreConfig(
            quota_bytes=self.quota_bytes,
            min_free_bytes=self.min_free_bytes,
            eviction=self.eviction,
            admission=self.admission,
            log=self.log,
            index=self.index,
        )

    def require_fits(self, page_bytes: int) -> None:
        """Raise ConfigError unless a page fits a segment of the tensor log."""
        if page_bytes >= self.log.segment_bytes:
            raise ConfigError(
                "a page does not fit a segment of the tensor log; raise --kv-storage-size, or "
                f"log.segment_bytes in --kv-storage-config. page_bytes={page_bytes} "
                f"segment_bytes={self.log.segment_bytes}"
            )

    def require_host_tier(self) -> None:
        """Raise ConfigError if host memory is not a tier: further pools are then not kept."""
        if self.host == "off":
            raise ConfigError("pools beside KV are not kept with --kv-storage-host off")

    def to_mapping(self) -> dict[str, object]:
        """Return plain JSON data; `from_extra_config` is the inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_extra_config(extra_config: Mapping[str, object] | None) -> "TierSettings":
        """Read the settings back in a worker process.

        Raises:
            ConfigError: the backend was attached by hand, without `--kv-storage`.
        """
        values = (extra_config or {}).get(EXTRA_CONFIG_KEY)
        if not isinstance(values, Mapping):
            raise ConfigError("start the server with --kv-storage lsm; its settings are missing")
        return from_mapping(TierSettings, values, where=EXTRA_CONFIG_KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierOptions:
    """The `--kv-storage*` values of one launch."""

    path: Path
    size: str
    config: TierConfig
    write_policy: str
    host: str
    segment_bytes_given: bool
    """Whether the operator chose the segment size; if not, it shrinks with a small quota."""
    operator_set: str
    """See `TierSettings`."""


def parse_options(
    backend: object,
    path: object = None,
    size: object = None,
    config: object = None,
    further: Mapping[str, object] | None = None,
) -> TierOptions | None:
    """Return the options of a launch, or None when no disk tier is asked for. Touches no disk but
    an `@file`.

    Args:
        backend: `lsm` or None.
        path: a directory; None for `sglang-lsm` below `$XDG_CACHE_HOME` or `~/.cache`.
        size: `200GB`, a number of bytes, or a share like `50%`.
        config: JSON text, `@file`, or a mapping.
        further: all other options, by their names without `--kv-storage-`.

    Raises:
        ConfigError: an unknown backend or write policy, options without a backend, a bad config.
    """
    if backend is None:
        given = {"path": path, "size": size, "config": config, **(further or {})}
        without = [f"--kv-storage-{name}" for name, value in given.items() if value is not None]
        if without:
            raise ConfigError(f"{without[0]} has no effect without --kv-storage lsm")
        return None
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend; known: {', '.join(BACKENDS)}. --kv-storage={backend}")
    policy, values = _with_options(further or {}, _config_values(config))
    log = values.get("log")
    return TierOptions(
        path=_absolute(path),
        size=str(DEFAULT_SIZE if size is None else size),
        config=from_mapping(TierConfig, values, where="--kv-storage-config"),
        write_policy=policy,
        host=str((further or {}).get("host") or "on"),
        segment_bytes_given=isinstance(log, Mapping) and "segment_bytes" in log,
        operator_set=",".join(_names(values)),
    )


def read_json_object(text: str, *, option: str) -> dict[str, object]:
    """Return the JSON object in `text`, or in the file that `@path` names.

    Raises:
        ConfigError: the file cannot be read, the JSON is malformed, or it is not an object.
    """
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        values = json.loads(source)
    except OSError as error:
        raise ConfigError(f"cannot read the file. {option}={text} reason={error}") from None
    except ValueError as error:
        raise ConfigError(f"not valid JSON: {error}. {option}={text!r}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"must be a JSON object. {option}={text!r}")
    return values


def _with_options(
    further: Mapping[str, object], config: Mapping[str, object]
) -> tuple[str, Mapping[str, object]]:
    """Return the write policy, and `config` with the other options put in; they win."""
    policy = _write_policy(further.get("write"), further.get("host"))
    for option in ("gate", "tune"):
        if further.get(option) is not None:
            config = {**config, option: further[option]}
    changes = {
        setting: further[option]
        for option, setting in (("write-delay", "delay_s"), ("flush-writes", "flush_writes"))
        if further.get(option) is not None
    }
    config = _with_changes(config, "write", changes)
    if further.get("codec") is not None:
        config = _with_changes(config, "log", {"codec": further["codec"]})
    return policy, config


def _with_changes(
    config: Mapping[str, object], part: str, changes: Mapping[str, object]
) -> Mapping[str, object]:
    """Return `config` with settings of one of its objects changed."""
    given = config.get(part, {})
    if not changes or not isinstance(given, Mapping):
        return config
    return {**config, part: {**given, **changes}}


def _write_policy(asked: object, host: object) -> str:
    if host not in (None, *HOSTS):
        raise ConfigError(f"known: {', '.join(HOSTS)}. --kv-storage-host={host}")
    if asked is None:
        return "through" if host == "off" else DEFAULT_WRITE_POLICY
    if asked not in WRITE_POLICIES:
        raise ConfigError(
            f"unknown write policy; known: {', '.join(WRITE_POLICIES)}. --kv-storage-write={asked}"
        )
    if asked == "evict" and host == "off":
        raise ConfigError(
            "--kv-storage-write evict writes what leaves host memory, which --kv-storage-host off "
            "does without; choose through or selective"
        )
    return str(asked)


def _names(values: Mapping[str, object]) -> list[str]:
    """Return the dotted names of the settings in a config."""
    names = []
    for name, value in values.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else [name]
    return names


def _config_values(config: object) -> Mapping[str, object]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return config
    return read_json_object(str(config), option="--kv-storage-config")


def _absolute(path: object) -> Path:
    if path is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return (Path(cache).expanduser() / "sglang-lsm").absolute()
    if not str(path).strip():
        raise ConfigError("--kv-storage-path must not be empty")
    return Path(str(path)).expanduser().absolute()
