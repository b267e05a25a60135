"""The decoder's shape: the section `[model]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from jslm.config.section import Fraction, NonNegative, Positive, Section, from_list

# In the context of validation: whether the run starts from a model (`train.init_from`), which completes `model`.
STARTS = "starts_from_a_model"


class RopeScalingConfig(Section):
    """Rotary frequencies stretched for contexts longer than the trained one."""

    kind: Literal["none", "linear", "ntk", "yarn", "llama3"] = Field(
        "none",
        description="`linear`: position interpolation (Chen et al. 2023); `ntk`: a larger base; `yarn` (Peng et al. "
        "2023); `llama3`: Llama 3.1's bands.",
    )
    factor: float = Field(1.0, ge=1.0, description="New context over trained context.")
    original_context_length: NonNegative = Field(
        0, description="Context length of training. 0: `context_length / factor`."
    )
    low_freq_factor: float = Field(1.0, gt=0.0, description="`llama3`: wavelengths above original/low are divided.")
    high_freq_factor: float = Field(4.0, gt=0.0, description="`llama3`: wavelengths under original/high are kept.")
    beta_fast: float = Field(32.0, gt=0.0, description="`yarn`: rotations above which a frequency is kept.")
    beta_slow: float = Field(1.0, gt=0.0, description="`yarn`: rotations under which a frequency is divided.")
    attention_factor: float = Field(
        0.0, ge=0.0, description="`yarn`: factor on the rotary tables. 0: `0.1 ln(factor) + 1`."
    )


class ConditionConfig(Section):
    """One thing that a text can be told to be, such as its style, and the labels it can have."""

    name: Annotated[str, Field(min_length=1)]
    labels: Annotated[tuple[str, ...], from_list, Field(min_length=1)]


class ModelConfig(Section):
    """The decoder's shape."""

    n_layers: Positive = Field(6, description="Decoder blocks.")
    d_model: Positive = Field(384, description="Width of the residual stream.")
    n_heads: Positive = Field(6, description="Query heads.")
    n_kv_heads: NonNegative = Field(
        0, description="Key/value heads: fewer than `n_heads` is GQA, 1 is MQA. 0: `n_heads`."
    )
    head_dim: NonNegative = Field(0, description="Width of a head. 0: `d_model / n_heads`.")
    d_ff: NonNegative = Field(
        0, description="Hidden width of the MLP. 0: `4 d_model`, or `8/3 d_model` rounded up to 64 for gated ones."
    )
    context_length: Positive = Field(256, description="Tokens the model sees at once.")
    vocab_size: NonNegative = Field(0, description="True vocabulary size. 0: the tokenizer's.")
    norm: Literal["rmsnorm", "layernorm"] = Field("rmsnorm", description="Normalisation, before each sublayer.")
    norm_eps: float = Field(1e-5, gt=0.0, description="Added to the variance inside the norms.")
    norm_bias: bool = Field(True, description="Whether LayerNorm has a bias (RMSNorm never has).")
    position: Literal["rope", "learned", "none"] = Field("rope", description="How positions enter.")
    rope_theta: float = Field(10000.0, gt=0.0, description="Base of the rotary frequencies.")
    rope_scaling: RopeScalingConfig = Field(
        default_factory=lambda: RopeScalingConfig(), description="Longer contexts than the trained one."
    )
    activation: Literal["swiglu", "geglu", "gelu", "gelu_exact", "relu", "relu2"] = Field(
        "swiglu", description="MLP activation; the first two are gated. `gelu` is GPT-2's tanh form."
    )
    qkv_bias: bool = Field(False, description="Biases on the query, key and value projections.")
    out_bias: bool = Field(False, description="Bias on the attention's output projection.")
    mlp_bias: bool = Field(False, description="Biases in the MLP.")
    tie_embeddings: bool = Field(True, description="Output head shares the token embedding.")
    qk_norm: bool = Field(False, description="RMSNorm over each head's query and key (as Qwen3).")
    logit_softcap: float = Field(0.0, ge=0.0, description="Logits become `cap * tanh(logits / cap)`. 0: off.")
    dropout: Fraction = Field(0.0, description="Dropout on embeddings and residual branches.")
    attention_dropout: Literal["auto"] | Fraction = Field(
        "auto", description="Dropout on attention weights. `auto`: what `dropout` says."
    )
    conditions: Annotated[tuple[ConditionConfig, ...], from_list] = Field(
        (),
        description='What a text can be conditioned on, such as `[{name = "style", labels = ["formal", "casual"]}]`: '
        "each label has an embedding that is added to those of the text's tokens. Empty: those of `data.conditions`.",
    )
    condition_dropout: Fraction = Field(
        0.1, description="Share of training documents that are read without a condition, so that the model knows both."
    )
    init_std: float = Field(
        0.0,
        ge=0.0,
        description="Standard deviation of initial weights; residual projections get it / sqrt(2 layers). 0: GPT-2's "
        "0.02 at its width, `0.02 sqrt(768 / d_model)`: narrower models learn far slower from smaller weights.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute type; parameters stay float32. `auto`: the fastest the device is good at."
    )
    attention: Literal["auto", "xla", "cudnn", "splash"] = Field(
        "auto",
        description="Attention implementation. `auto`: in blocks on CPUs, cuDNN flash attention on GPUs and splash "
        "attention on TPUs, where shapes allow; else XLA.",
    )
    remat: Literal["none", "dots", "full"] = Field(
        "none", description="What the backward pass recomputes: nothing, all but matrix products, whole blocks."
    )
    unroll: NonNegative = Field(
        0, description="Layers unrolled in each scan step. 0: all of them up to 8 layers (48 on GPUs), else 1."
    )

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> ModelConfig:
        if info.context and info.context.get(STARTS):
            # What is left out is not the default then, but the start's: judged when that is known.
            return self
        if self.head_dim == 0 and self.d_model % self.n_heads:
            raise ValueError(
                f"model.n_heads = {self.n_heads} does not divide model.d_model = {self.d_model}; "
                "change one, or set model.head_dim"
            )
        if self.n_heads % self.kv_heads:
            fits = [str(n) for n in range(1, self.n_heads + 1) if self.n_heads % n == 0]
            raise ValueError(
                f"model.n_kv_heads = {self.n_kv_heads} does not divide model.n_heads = {self.n_heads}; "
                f"use one of {', '.join(fits)}"
            )
        if self.position == "rope" and self.dim_per_head % 2:
            raise ValueError(
                f"head width {self.dim_per_head} is odd, and model.position = 'rope' rotates pairs; "
                "use an even model.head_dim"
            )
        names = [condition.name for condition in self.conditions]
        for condition in self.conditions:
            if names.count(condition.name) > 1 or len(set(condition.labels)) < len(condition.labels):
                raise ValueError(
                    f"model.conditions: {condition.name!r} or one of its labels comes twice; name each once"
                )
        scaling = self.rope_scaling
        if scaling.kind != "none" and self.position != "rope":
            raise ValueError(
                f"model.rope_scaling.kind = {scaling.kind!r} needs model.position = 'rope', found {self.position!r}"
            )
        if scaling.kind == "llama3" and scaling.high_freq_factor <= scaling.low_freq_factor:
            raise ValueError(
                f"model.rope_scaling.high_freq_factor = {scaling.high_freq_factor} must be above "
                f"low_freq_factor = {scaling.low_freq_factor}"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """Key/value heads with the default resolved."""
        return self.n_kv_heads or self.n_heads

    @property
    def dim_per_head(self) -> int:
        """Width of a head with the default resolved."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def attention_dropout_rate(self) -> float:
        """Dropout on attention weights with the default resolved."""
        return self.dropout if self.attention_dropout == "auto" else self.attention_dropout

    @property
    def drops_out(self) -> bool:
        """Whether training drops anything out."""
        return self.dropout > 0 or self.attention_dropout_rate > 0

    @property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate projection."""
        return self.activation in ("swiglu", "geglu")

    @property
    def hidden_dim(self) -> int:
        """MLP width with the default resolved."""
        if self.d_ff:
            return self.d_ff
        return -(-8 * self.d_model // 3 // 64) * 64 if self.is_gated else 4 * self.d_model

    @property
    def initial_std(self) -> float:
        """Standard deviation of initial weights with the default resolved."""
        return self.init_std or float(0.02 * (768 / self.d_model) ** 0.5)

    @property
    def padded_vocab_size(self) -> int:
        """`vocab_size` rounded up to a multiple of 128, the width of the embedding inside the model."""
        return -(-self.vocab_size // 128) * 128
