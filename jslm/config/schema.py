"""What a run is: one frozen pydantic model a section. Each field's description is its only documentation;
`docs/config.md` is generated from here and from `data_schema` (`jslm config`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from jslm.config.card_schema import CardConfig
from jslm.config.completion_checks import check_completions
from jslm.config.data_schema import DataConfig, PrepareConfig, TokenizerConfig
from jslm.config.preference_checks import check_preferences
from jslm.config.rewrite_schema import RewriteConfig
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


class MeshConfig(Section):
    """How devices are arranged. At most one axis may be -1, which takes the devices that are left."""

    data: int = Field(-1, description="Copies of the model, each with its share of the batch.")
    fsdp: int = Field(1, description="Shards of parameters and optimizer state, which also share the batch.")
    tensor: int = Field(1, description="Shards of heads, MLP and vocabulary (keep inside one host).")

    @model_validator(mode="after")
    def _check(self) -> MeshConfig:
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise ValueError(f"mesh.{axis} = {size}; use a positive number, or -1 for the devices that are left")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"mesh has more than one -1 ({sizes}); only one axis can take the rest")
        return self


class OptimizerConfig(Section):
    """Gradient to update."""

    name: Literal["adamw", "muon"] = Field(
        "adamw",
        description="`muon`: Muon (Jordan 2024) on the blocks' matrices, AdamW on embeddings, head and vectors.",
    )
    learning_rate: float = Field(6e-4, gt=0.0, description="Peak learning rate of AdamW.")
    muon_learning_rate: float = Field(
        0.0, ge=0.0, description="Peak learning rate of Muon's matrices, scaled to AdamW's RMS. 0: `learning_rate`."
    )
    min_learning_rate_ratio: float = Field(0.1, ge=0.0, le=1.0, description="Last learning rate over the peak.")
    schedule: Literal["cosine", "wsd", "linear", "constant"] = Field(
        "cosine", description="After warm-up: cosine, warmup-stable-decay, linear decay, or constant."
    )
    warmup_steps: NonNegative = Field(100, description="Steps of linear warm-up from 0.")
    decay_fraction: float = Field(
        0.2, ge=0.0, le=1.0, description="`wsd`: share of all steps in the final linear decay."
    )
    beta1: Fraction = Field(0.9, description="AdamW's first-moment decay.")
    beta2: Fraction = Field(0.95, description="AdamW's second-moment decay.")
    eps: float = Field(1e-8, gt=0.0, description="AdamW's denominator constant.")
    weight_decay: float = Field(0.1, ge=0.0, description="Decoupled weight decay, on matrices only.")
    clip_norm: float = Field(1.0, ge=0.0, description="Global gradient-norm limit. 0: off.")


class CurriculumStage(Section):
    """Shorter sequences up to a share of the run."""

    context: Positive
    until: float = Field(gt=0.0, le=1.0)


class LoraConfig(Section):
    """Low-rank adapters beside frozen weights (Hu et al. 2021); they are merged where the model is opened."""

    rank: NonNegative = Field(0, description="Rank of the adapters. 0: off, all weights are trained.")
    alpha: float = Field(16.0, gt=0.0, description="The adapters' share is `alpha / rank`.")
    targets: Annotated[
        tuple[Literal["q", "k", "v", "out", "gate", "up", "down"], ...], from_list, Field(min_length=1)
    ] = Field(("q", "k", "v", "out", "gate", "up", "down"), description="Which projections of each layer have one.")


class DpoConfig(Section):
    """`objective = "dpo"`: how preferences are learned (Rafailov et al. 2023)."""

    beta: float = Field(
        0.1, gt=0.0, description="Weight of staying near the reference model; lower allows answers further from it."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0.0,
        lt=0.5,
        description="Share of pairs taken to be the wrong way round (conservative DPO, Mitchell 2023). 0: none.",
    )


class TrainConfig(Section):
    """The training loop."""

    objective: Literal["text", "sft", "dpo"] = Field(
        "text",
        description="What is learned. `text`: each next token; `sft`: the completions of pairs (`data.prompt_end`) and "
        "what assistants say (`data.messages`), which the data then must have (Ouyang et al. 2022); `dpo`: to "
        "prefer one answer to another (`data.rejected`, `train.dpo`), from the model of `init_from`.",
    )
    steps: NonNegative = Field(0, description="Optimizer steps. 0: from `epochs`.")
    epochs: float = Field(1.0, gt=0.0, description="Passes over the training tokens, where `steps` is 0.")
    batch_size: Positive = Field(32, description="Sequences an optimizer step, over all devices and micro-batches.")
    micro_batch: NonNegative | Literal["auto"] = Field(
        0,
        description="Sequences a forward pass, over all devices; gradients add up to `batch_size`. 0: `batch_size`. "
        "`auto`: the most that fit the device's memory, as the compiler says; the run keeps its first choice.",
    )
    curriculum: list[CurriculumStage] = Field(
        default_factory=list,
        description="Shorter sequences first, as in `[{context = 64, until = 0.25}, {context = 128, until = 0.5}]`: up "
        "to a quarter of all steps each sequence is cut in pieces of 64 tokens, up to half of them in pieces of 128, "
        "and whole from there on. A step keeps its tokens; `context` divides `model.context_length`.",
    )
    eval_every: NonNegative = Field(250, description="Steps between validations. 0: only at the end.")
    eval_batches: NonNegative = Field(
        50, description="Batches a validation. 0: the whole split; the last validation always takes it whole."
    )
    eval_batch_size: NonNegative = Field(0, description="Sequences a validation batch. 0: `batch_size`.")
    log_every: Positive = Field(10, description="Steps between lines of metrics.")
    early_stopping: NonNegative = Field(0, description="Stop after this many validations without a new best. 0: never.")
    z_loss: float = Field(0.0, ge=0.0, description="Weight of `log(Z)^2` (PaLM), which keeps logits from drifting.")
    ema_decay: Fraction = Field(
        0.0,
        description="Decay of an exponential moving average of parameters, which validation, samples and exports then "
        "use. After n updates it is no more than (1 + n) / (10 + n), so that short runs are averaged well too. 0: off.",
    )
    max_bad_steps: Positive = Field(
        20, description="Stop after this many non-finite steps in a row; each is skipped and counted."
    )
    init_from: str = Field(
        "",
        description="Run folder or model file whose weights training starts from. What `model`, `tokenizer` and "
        "`data.chat_template` leave out is taken from it; what they say against it is an error.",
    )
    lora: LoraConfig = Field(default_factory=lambda: LoraConfig(), description="Low-rank adapters.")
    dpo: DpoConfig = Field(default_factory=lambda: DpoConfig(), description="Preferences.")
    init_checkpoint: str = Field("best", description="Which of its checkpoints: `best`, `latest`, or a step.")
    loss_chunk: NonNegative = Field(
        0,
        description="Tokens a cross-entropy chunk. 0: chosen so that logits stay under about 64 MB a device, on CPUs "
        "under 16 MB or 1,024 tokens.",
    )
    profile: bool = Field(False, description="Write a JAX profiler trace of a few steps to `profile/`.")
    report: bool = Field(True, description="Write `report.html` at the end.")
    tensorboard: bool = Field(True, description="Write TensorBoard events.")

    @property
    def micro_rows(self) -> int:
        """Sequences a forward pass with the default resolved; all of them while `auto` is undecided."""
        return self.micro_batch if isinstance(self.micro_batch, int) and self.micro_batch else self.batch_size


class CheckpointConfig(Section):
    """What is kept on disk."""

    every: NonNegative = Field(0, description="Steps between checkpoints. 0: at each validation.")
    keep: Positive = Field(2, description="Newest checkpoints kept, besides the best.")


class SampleConfig(Section):
    """Text written during training, and the defaults of `jslm sample` for this run."""

    every: NonNegative = Field(0, description="Steps between samples. 0: at each validation. They go to `samples.md`.")
    prompts: list[str] = Field(default_factory=lambda: [""], description="Prompts; an empty one starts a document.")
    max_new_tokens: Positive = Field(200, description="Tokens a sample at most.")
    temperature: float = Field(0.8, ge=0.0, description="0 is greedy.")
    top_k: NonNegative = Field(0, description="Keep the k likeliest tokens. 0: all.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Keep the likeliest tokens that reach this probability.")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="Drop tokens under this share of the likeliest one's.")
    repetition_penalty: float = Field(1.0, gt=0.0, description="Divides the logits of tokens already present.")


class Config(Section):
    """A whole run."""

    run_dir: str = Field("runs/run", description="Folder that the run writes to, and resumes from if it exists.")
    seed: NonNegative = Field(0, description="Seed of initialisation, data order and dropout.")
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    tokenizer: TokenizerConfig = Field(default_factory=lambda: TokenizerConfig())
    prepare: PrepareConfig = Field(default_factory=lambda: PrepareConfig())
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    mesh: MeshConfig = Field(default_factory=lambda: MeshConfig())
    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig())
    train: TrainConfig = Field(default_factory=lambda: TrainConfig())
    checkpoint: CheckpointConfig = Field(default_factory=lambda: CheckpointConfig())
    sample: SampleConfig = Field(default_factory=lambda: SampleConfig())
    card: CardConfig = Field(default_factory=lambda: CardConfig())
    rewrite: RewriteConfig = Field(default_factory=lambda: RewriteConfig())

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.train.lora.rank and not self.train.init_from:
            raise ValueError(
                f"train.lora.rank = {self.train.lora.rank} adapts a trained model, and train.init_from is empty; name "
                "the run or the file to start from"
            )
        check_preferences(self)
        micro = self.train.micro_rows
        if self.train.batch_size % micro:
            raise ValueError(f"train.micro_batch = {micro} does not divide train.batch_size = {self.train.batch_size}")
        check_completions(self)
        self._check_batches()
        return self

    def _check_batches(self) -> None:
        data, context = self.data, self.model.context_length
        if data.stride and data.packing == "documents":
            raise ValueError(
                f"data.stride = {data.stride} is for data.packing = 'windows', found 'documents'; leave it at 0"
            )
        if (data.conditions or self.model.conditions) and data.packing != "documents":
            key = "data.conditions" if data.conditions else "model.conditions"
            raise ValueError(f"{key} is learned document by document and needs data.packing = 'documents'")
        # A context that is not said is known when the model is that training starts from.
        knows_context = not self.train.init_from or "context_length" in self.model.model_fields_set
        if knows_context and data.stride > context:
            raise ValueError(
                f"data.stride = {data.stride} is over model.context_length = {context}, so text would be skipped; "
                f"use 1 to {context}"
            )
        if data.mixture:
            if data.sources or data.dir:
                raise ValueError(
                    "data.mixture is in place of data.source and data.dir; prepare each corpus with a config of its "
                    "own, and list its folder in data.mixture"
                )
            dirs = [corpus.dir.rstrip("/") for corpus in data.mixture]
            if twice := [name for name in dirs if dirs.count(name) > 1]:
                raise ValueError(f"data.mixture: {twice[0]!r} is there twice; give it once, with a larger weight")
        length, until = 0, 0.0
        for number, stage in enumerate(self.train.curriculum):
            key = f"train.curriculum[{number}]"
            if knows_context and context % stage.context:
                raise ValueError(f"{key}.context = {stage.context} does not divide model.context_length = {context}")
            if stage.context <= length or stage.until <= until:
                raise ValueError(
                    f"{key} = {{context = {stage.context}, until = {stage.until:g}}} follows {{context = {length}, "
                    f"until = {until:g}}}; contexts and shares have to rise from stage to stage"
                )
            length, until = stage.context, stage.until

    @property
    def data_dir(self) -> str:
        """Folder of the prepared token files (of a mixture: the first one), with the default resolved."""
        if self.data.mixture:
            return self.data.mixture[0].dir
        return self.data.dir or f"{self.run_dir}/data"
