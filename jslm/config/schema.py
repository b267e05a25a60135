"""What a run is: one frozen pydantic model a section. Each field's description is its only documentation;
`docs/config.md` is generated from here, from `model_schema` and `data_schema` (`jslm config`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jslm.config.card_schema import CardConfig
from jslm.config.completion_checks import check_completions
from jslm.config.data_schema import DataConfig, PrepareConfig, TokenizerConfig
from jslm.config.distill_schema import DistillConfig, check_distillation
from jslm.config.model_schema import ModelConfig
from jslm.config.preference_checks import check_preferences
from jslm.config.rewrite_schema import RewriteConfig
from jslm.config.section import Fraction, NonNegative, Positive, Section, from_list


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
    muon_momentum: Fraction = Field(0.95, description="Muon's momentum, Nesterov's.")
    muon_beta2: Fraction = Field(
        0.0,
        description="NorMuon (Li et al. 2025): what a matrix gives each output is divided by its running root mean "
        "square, with this decay, such as 0.95. 0: plain Muon.",
    )
    min_learning_rate_ratio: float = Field(0.1, ge=0.0, le=1.0, description="Last learning rate over the peak.")
    schedule: Literal["cosine", "wsd", "linear", "constant"] = Field(
        "cosine", description="After warm-up: cosine, warmup-stable-decay, linear decay, or constant."
    )
    warmup_steps: NonNegative = Field(100, description="Steps of linear warm-up from 0.")
    warmup_share: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Warm-up as a share of all steps, in place of `warmup_steps`. 0: `warmup_steps`.",
    )
    decay_fraction: float = Field(
        0.2, ge=0.0, le=1.0, description="`wsd`: share of all steps in the final linear decay."
    )
    beta1: Fraction = Field(0.9, description="AdamW's first-moment decay.")
    beta2: Fraction = Field(0.95, description="AdamW's second-moment decay.")
    eps: float = Field(1e-8, gt=0.0, description="AdamW's denominator constant.")
    weight_decay: float = Field(0.1, ge=0.0, description="Decoupled weight decay, on matrices only.")
    weight_decay_schedule: Literal["rate", "constant", "rising"] = Field(
        "rate",
        description="What a step takes off weights: `weight_decay` times the learning rate; times its peak, however "
        "far the rate has fallen; or times the rate and the share of the run that is done, so that it comes late.",
    )
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

    objective: Literal["text", "sft", "dpo", "distill"] = Field(
        "text",
        description="What is learned. `text`: each next token; `sft`: the completions of pairs (`data.prompt_end`) and "
        "what assistants say (`data.messages`), which the data then must have (Ouyang et al. 2022); `dpo`: to "
        "prefer one answer to another (`data.rejected`, `train.dpo`), from the model of `init_from`; `distill`: the "
        "text, and what other models expect in it (`train.distill`).",
    )
    steps: NonNegative = Field(0, description="Optimizer steps. 0: from `epochs`, or as many as `minutes` allow.")
    epochs: float = Field(
        1.0, gt=0.0, description="Passes over the training tokens, where `steps` and `minutes` are 0."
    )
    minutes: float = Field(
        0.0,
        ge=0.0,
        description="Time for the whole run, from the start of the command to its end: preparing, compiling and "
        "validating too. The schedule (`wsd` or `linear`) ends with it, however fast the steps turn out to be; with "
        "`steps`, it ends at the earlier of the two. A run that goes on has the minutes that are left. 0: no limit.",
    )
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
    distill: DistillConfig = Field(default_factory=lambda: DistillConfig(), description="Teachers.")
    init_checkpoint: str = Field("best", description="Which of its checkpoints: `best`, `latest`, or a step.")
    loss_chunk: NonNegative = Field(
        0,
        description="Tokens a cross-entropy chunk. 0: chosen so that logits stay under about 64 MB a device, on CPUs "
        "under 16 MB or 1,024 tokens.",
    )
    profile: bool = Field(False, description="Write a JAX profiler trace of a few steps to `profile/`.")
    report: bool = Field(True, description="Write `report.html` at the end.")
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], from_list] = Field(
        ("tensorboard",),
        description="Where figures, samples and the report go besides the run folder. `wandb` (Weights & Biases) and "
        "`mlflow` come with the extras of these names and go by their own environment variables (docs/trackers.md).",
    )
    tensorboard: bool = Field(True, description="False: no TensorBoard events, whatever `trackers` says.")

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """`trackers`, each once, less TensorBoard where `tensorboard` is false."""
        return tuple(dict.fromkeys(name for name in self.trackers if self.tensorboard or name != "tensorboard"))

    @property
    def micro_rows(self) -> int:
        """Sequences a forward pass with the default resolved; all of them while `auto` is undecided."""
        return self.micro_batch if isinstance(self.micro_batch, int) and self.micro_batch else self.batch_size


class CheckpointConfig(Section):
    """What is kept on disk."""

    every: NonNegative = Field(0, description="Steps between checkpoints. 0: at each validation.")
    keep: Positive = Field(2, description="Newest checkpoints kept, besides the best.")
    upload_seconds: float = Field(
        25.0,
        ge=0.0,
        description="Of a run at an address: how long uploads may take after SIGTERM or Ctrl-C; a machine that is "
        "taken away has 30 seconds, on some clouds 120.",
    )


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

    run_dir: str = Field(
        "runs/run",
        description="Folder that the run writes to, and resumes from if it exists; or its address in an object store, "
        "as in `s3://bucket/run` or `gs://bucket/run`.",
    )
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
        check_distillation(self)
        micro = self.train.micro_rows
        if self.train.batch_size % micro:
            raise ValueError(f"train.micro_batch = {micro} does not divide train.batch_size = {self.train.batch_size}")
        check_completions(self)
        self._check_batches()
        self._check_minutes()
        return self

    def _check_minutes(self) -> None:
        if not self.train.minutes:
            return
        if self.optimizer.schedule not in ("wsd", "linear"):
            raise ValueError(
                f"train.minutes = {self.train.minutes:g} needs a schedule that can end when time is up, found "
                f"optimizer.schedule = {self.optimizer.schedule!r}; use 'wsd' or 'linear', or set train.steps"
            )
        if self.optimizer.weight_decay_schedule == "rising":
            raise ValueError(
                "optimizer.weight_decay_schedule = 'rising' goes by train.steps, which train.minutes leaves open; use "
                "'rate' or 'constant'"
            )
        if self.optimizer.warmup_share:
            raise ValueError(
                f"optimizer.warmup_share = {self.optimizer.warmup_share:g} is a share of train.steps, which "
                "train.minutes leaves open; set optimizer.warmup_steps"
            )
        if self.train.curriculum:
            raise ValueError(
                "train.curriculum has shares of train.steps, which train.minutes leaves open; leave one of them out"
            )

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
