"""What the cache of one sequence will take, from a model's config.json alone: pure.

Who loads a model measures it (`worker.engines.mlx.memory.plan`); before it is fetched there is no other way than the
families' own arithmetic. Each row of `_FAMILIES` was compared with what mlx-lm's model of that family really keeps. A
number takes two bytes; states of recurrent layers stay at four.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from shared.cache_size import CacheSize

_NUMBER_BYTES: Final = 2
_STATE_BYTES: Final = 4
_MOST: Final = 1 << 24  # of any number in a config
_MOST_LAYERS: Final = 4096
_SHOWN: Final = 60

_Kind = Literal["tokens", "window", "state", "none"]


class UnknownCacheError(Exception):
    """Why it is not known, for a person."""


@dataclass(frozen=True, slots=True)
class _Config:
    """Of what reads the text, where a model has several parts."""

    values: Mapping[str, Any]

    def whole(self, *names: str, default: int | None = None) -> int:
        """Of the first name that is there. Raises `UnknownCacheError`."""
        found = next((self.values[name] for name in names if self.values.get(name) is not None), default)
        if type(found) is not int or not 0 <= found <= _MOST:
            raise UnknownCacheError(f"its config.json does not say `{names[0]}`")
        return found

    def texts(self, *names: str) -> Sequence[str]:
        """Empty where none is there."""
        found: Any = next((self.values[name] for name in names if self.values.get(name)), [])
        if not isinstance(found, str | list) or not all(isinstance(each, str) for each in found):
            raise UnknownCacheError(f"its config.json has a `{names[0]}` that nobody knows")
        return list(found)[:_MOST_LAYERS]

    def without(self, name: str) -> _Config:
        return _Config({**self.values, name: None})

    @property
    def layers(self) -> int:
        return min(_MOST_LAYERS, self.whole("num_hidden_layers"))

    @property
    def heads(self) -> int:
        return max(1, self.whole("num_attention_heads"))

    @property
    def head_dim(self) -> int:
        return self.whole("head_dim", default=0) or self.whole("hidden_size") // self.heads

    @property
    def kv_bytes(self) -> int:
        """Of a token in a layer of plain attention."""
        return 2 * self.whole("num_key_value_heads", default=self.heads) * self.head_dim * _NUMBER_BYTES


def _size(config: _Config, kinds: Sequence[_Kind], token_bytes: int, state_bytes: int = 0) -> CacheSize:
    """`token_bytes` of each layer that keeps tokens, `state_bytes` of each that keeps a state."""
    layers = Counter(kinds)
    window = (config.whole("sliding_window"), token_bytes) if layers["window"] else (0, 0)
    return CacheSize(
        token_bytes=layers["tokens"] * token_bytes,
        windows=(window,) * layers["window"],
        state_bytes=layers["state"] * state_bytes,
    )


_KINDS: Final[Mapping[str, _Kind]] = {
    **{"full_attention": "tokens", "attention": "tokens", "*": "tokens"},
    "sliding_attention": "window",
    **{"linear_attention": "state", "mamba": "state", "conv": "state", "M": "state"},
    **{"moe": "none", "mlp": "none", "E": "none", "-": "none"},
}


def _kinds(config: _Config, *names: str) -> list[_Kind]:
    """As they are listed; all plain where they are not."""
    listed = config.texts(*names)
    if strange := sorted(set(listed) - _KINDS.keys()):
        raise UnknownCacheError(f"nobody knows its layers of the kind {strange[0][:_SHOWN]!r}")
    return [_KINDS[each] for each in listed] or ["tokens"] * config.layers


def _every(config: _Config, period: int, other: _Kind) -> list[_Kind]:
    """One layer of each period is plain, its last."""
    if period < 1:
        raise UnknownCacheError("its config.json has no order of layers")
    return ["tokens" if index % period == period - 1 else other for index in range(config.layers)]


def _plain(config: _Config) -> CacheSize:
    return _size(config, ["tokens"] * config.layers, config.kv_bytes)


def _even(config: _Config) -> CacheSize:
    """Its heads share the width of the model, whatever else is said."""
    return _plain(config.without("head_dim"))


def _listed(config: _Config) -> CacheSize:
    return _size(config, _kinds(config, "layer_types"), config.kv_bytes)


def _gemma3(config: _Config) -> CacheSize:
    config.whole("num_key_value_heads")  # which some leave out, and the family has defaults of its own
    return _size(config, _every(config, config.whole("sliding_window_pattern", default=6), "window"), config.kv_bytes)


def _cohere2(config: _Config) -> CacheSize:
    return _size(config, _every(config, config.whole("sliding_window_pattern", default=4), "window"), config.kv_bytes)


def _gemma3n(config: _Config) -> CacheSize:
    """The last layers use the caches of earlier ones."""
    own = config.layers - config.whole("num_kv_shared_layers")
    return _size(config, _kinds(config, "layer_types")[: max(0, own)], config.kv_bytes)


def _gemma4(config: _Config) -> CacheSize:
    """Layers over everything have heads of their own."""
    own = config.layers - config.whole("num_kv_shared_layers")
    kinds = _kinds(config, "layer_types")[: max(0, own)]
    heads = config.whole("num_key_value_heads")
    if config.values.get("attention_k_eq_v"):
        heads = config.whole("num_global_key_value_heads", default=heads)
    wide = 2 * heads * config.whole("global_head_dim") * _NUMBER_BYTES
    windowed = _size(config, [each for each in kinds if each == "window"], config.kv_bytes)
    return CacheSize(token_bytes=kinds.count("tokens") * wide, windows=windowed.windows, state_bytes=0)


def _latent(config: _Config) -> CacheSize:
    """Keys and values as one vector, beside the part that knows its place."""
    numbers = config.whole("kv_lora_rank") + config.whole("qk_rope_head_dim")
    return _size(config, ["tokens"] * config.layers, numbers * _NUMBER_BYTES)


def _unfolded(config: _Config) -> CacheSize:
    """Latent attention whose keys and values are kept as they are used."""
    key = config.whole("qk_nope_head_dim") + config.whole("qk_rope_head_dim")
    numbers = config.heads * (key + config.whole("v_head_dim"))
    return _size(config, ["tokens"] * config.layers, numbers * _NUMBER_BYTES)


def _delta(config: _Config) -> CacheSize:
    """Most layers are gated delta nets."""
    keys = config.whole("linear_num_key_heads") * config.whole("linear_key_head_dim")
    values = config.whole("linear_num_value_heads") * config.whole("linear_value_head_dim")
    conv = (config.whole("linear_conv_kernel_dim") - 1) * (2 * keys + values)
    state = values * config.whole("linear_key_head_dim")
    kinds = _every(config, config.whole("full_attention_interval", default=4), "state")
    return _size(config, kinds, config.kv_bytes, (conv + state) * _STATE_BYTES)


def _convolved(config: _Config) -> CacheSize:
    state = (config.whole("conv_L_cache") - 1) * config.whole("hidden_size")
    if config.values.get("layer_types") is None:
        raise UnknownCacheError("its config.json does not say `layer_types`")
    return _size(config, _kinds(config, "layer_types"), config.without("head_dim").kv_bytes, state * _STATE_BYTES)


def _mamba(names: tuple[str, str, str, str, str], *layers: str) -> Callable[[_Config], CacheSize]:
    """Layers of Mamba 2 between others. `names` are of its heads, their width, its state, groups and kernel."""

    def size(config: _Config) -> CacheSize:
        heads, width, state, groups, kernel = (config.whole(name) for name in names)
        conv = (kernel - 1) * (heads * width + 2 * groups * state)
        kinds = _kinds(config, *layers)
        return _size(config, kinds, config.kv_bytes, (conv + heads * width * state) * _STATE_BYTES)

    return size


_GRANITE: Final = _mamba(
    ("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"), "layer_types"
)
_NEMOTRON: Final = _mamba(
    ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"),
    *("hybrid_override_pattern", "layers_block_type", "layer_types"),
)
_ROWS: Final[Mapping[Callable[[_Config], CacheSize], str]] = {
    _plain: "Klear apertus bailing_moe cohere deepseek dots1 ernie4_5 ernie4_5_moe gemma gemma2 glm glm4 glm4_moe "
    "granite granitemoe hunyuan_v1_dense internlm2 internlm3 mimo minicpm minimax minimax_m2 mixtral nemotron olmo2 "
    "olmoe phi phi3 phimoe pixtral qwen3 qwen3_moe qwen3_vl qwen3_vl_moe seed_oss smollm3 "
    "stablelm starcoder2 telechat3",
    _even: "helium qwen2 qwen2_5_vl qwen2_moe qwen2_vl",
    _listed: "afmoe exaone4 exaone_moe gpt_oss laguna llama mellum ministral3 mistral mistral3 olmo3 spark2_5",
    _gemma3: "gemma3 gemma3_text",
    _cohere2: "cohere2",
    _gemma3n: "gemma3n",
    _gemma4: "gemma4 gemma4_text",
    _latent: "deepseek_v3 glm4_moe_lite kimi_k2 kimi_k25 kimi_vl mistral4",
    _unfolded: "deepseek_v2 youtu_llm",
    _delta: "qwen3_5 qwen3_5_moe qwen3_next",
    _convolved: "lfm2 lfm2-vl lfm2_moe",
    _GRANITE: "granitemoehybrid",
    _NEMOTRON: "nemotron_h",
}
_FAMILIES: Final = {name: rule for rule, names in _ROWS.items() for name in names.split()}


def cache_size(config: Any) -> CacheSize:
    """Of a parsed config.json. Raises `UnknownCacheError`."""
    if not isinstance(config, Mapping):
        raise UnknownCacheError("its config.json is no object")
    family = config.get("model_type")
    rule = _FAMILIES.get(family) if isinstance(family, str) else None
    if rule is None:
        raise UnknownCacheError(f"what a model of the type {str(family)[:_SHOWN]!r} keeps is known once it is loaded")
    text = config.get("text_config")
    return rule(_Config(text if isinstance(text, Mapping) and text else config))
