"""What a run is: one frozen pydantic model a section. Each field's description is its only documentation;
`docs/config.md` is generated from here (`python -m jslm.config`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
CleanerName = Literal[
    "emphasis",
    "footnotes",
    "gutenberg",
    "html",
    "mojibake",
    "normalize",
    "page_numbers",
    "screenplay",
    "unwrap",
]


class Section(BaseModel):
    """A frozen section that refuses unknown keys and silent type changes (a string for a number, 1.5 for an int)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MixtureCorpus(Section):
    """One of several prepared corpora, and its share of the sequences."""

    dir: Annotated[str, Field(min_length=1)]
    weight: float = Field(1.0, gt=0.0)


class AugmentConfig(Section):
    """Altered copies of the training documents, made when the token files are; validation text is never altered."""

    copies: NonNegative = Field(0, description="Altered copies of each training document. 0: none.")
    lowercase: float = Field(0.0, ge=0.0, le=1.0, description="Share of the copies that are in lower case.")
    drop_sentences: Fraction = Field(0.0, description="Chance that a sentence of a copy is left out; one always stays.")
    noise: Fraction = Field(
        0.0,
        description="Chance that a letter of a copy is mistyped: swapped with the next, left out, doubled, or replaced "
        "by another letter of the document.",
    )
    seed: NonNegative = Field(0, description="Seed of what is altered.")

    @model_validator(mode="after")
    def _check(self) -> AugmentConfig:
        changes = self.lowercase or self.drop_sentences or self.noise
        if self.copies and not changes:
            raise ValueError(
                f"data.augment.copies = {self.copies}, but nothing is to be altered; set data.augment.lowercase, "
                "drop_sentences or noise"
            )
        if changes and not self.copies:
            raise ValueError("data.augment has transforms but copies = 0; set data.augment.copies = 1")
        return self


class DedupConfig(Section):
    """What is taken out of the corpus because it is there already, before the split. Everything is off by default."""

    exact: bool = Field(
        False, description="Drop documents that are, but for case and white space, equal to one before them."
    )
    near: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Drop documents that share at least this much (Jaccard similarity of their runs of words, "
        "estimated by MinHash to about 0.04) with one before them. 0: off; 0.8 finds editions of one text.",
    )
    near_words: Positive = Field(5, description="Words a run, for `near`.")
    max_line_documents: NonNegative = Field(
        0, description="Lines that occur in more documents than this are taken out of all of them. 0: off."
    )
    max_line_occurrences: NonNegative = Field(
        0, description="Lines that occur more often than this in the whole corpus are taken out. 0: off."
    )
    min_line_characters: NonNegative = Field(
        20, description="Shorter lines are never taken out: 'Yes,' she said, and the like."
    )

    @property
    def removes_lines(self) -> bool:
        """Whether the corpus has to be read once more, to count its lines."""
        return bool(self.max_line_documents or self.max_line_occurrences)


class FilterConfig(Section):
    """Which documents are kept, judged last, after cleaners and `data.dedup`. Everything is off by default."""

    min_characters: NonNegative = Field(0, description="Shorter documents are dropped. 0: off.")
    max_characters: NonNegative = Field(0, description="Longer documents are dropped. 0: off.")
    min_alphabetic: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of letters, of any script, among the characters that are no white space, under which a "
        "document is dropped. 0: off; books are at 0.90 to 0.95, code is at about 0.8, tables of figures far below.",
    )
    max_top_ngram: list[float] = Field(
        default_factory=list,
        description="Share of a document's characters that its most frequent run of 2, 3, 4, ... words may make up, "
        "one number a length. Empty: off; Gopher's are `[0.2, 0.18, 0.16]`.",
    )
    max_duplicate_lines: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="Share of a document's characters that may stand in lines it has had before. 1: off; Gopher's "
        "is 0.2.",
    )

    @model_validator(mode="after")
    def _check(self) -> FilterConfig:
        if self.max_characters and self.max_characters < self.min_characters:
            raise ValueError(
                f"data.filters.max_characters = {self.max_characters} is under data.filters.min_characters = {self.min_characters}: no document "
                "could be kept; raise it, or set it to 0 for no limit"
            )
        for share in self.max_top_ngram:
            if not 0.0 < share <= 1.0:
                raise ValueError(
                    f"data.filters.max_top_ngram has {share}; expected shares above 0 and up to 1, as in [0.2, 0.18]"
                )
        return self


class DataConfig(Section):
    """Where the text comes from and how it is split."""

    source: str | list[str] = Field(
        "",
        description="Text to learn from: a file, a folder, a glob, an address (`https://`, `hf://`, `s3://`, `gs://`), "
        "`-` for standard input, `hf-dataset:OWNER/NAME[/CONFIG][:SPLIT]`, `stories:20MB` for generated children's "
        "stories, or a list of these. `.txt`, `.md`, `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.epub` and "
        "`.html` are read, each also as `.gz` or `.zst` and inside `.zip` and `.tar`.",
    )
    dir: str = Field(
        "", description="Folder of the prepared token files. Empty: `data` inside `run_dir`. Made if it is absent."
    )
    licence: str = Field(
        "", description="Licence of the text, for `meta.json`, as in `CC-BY-4.0`. Nothing else reads it."
    )
    format: Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet", "epub", "html"] = Field(
        "auto",
        description="How files are read. `auto`: by the ending of their names, and what has no known ending as text. "
        "Text, EPUB and HTML are a document a file, the others a document a record.",
    )
    encoding: str = Field(
        "auto",
        description="Encoding of text files, as Python names it (`utf-8`, `cp1252`). `auto`: by the byte order mark, "
        "else UTF-8, else what charset-normalizer finds, which is said.",
    )
    text_field: str = Field("text", description="Key or column that holds the text of each record.")
    template: str = Field(
        "",
        description="The text of a record from several keys or columns, as in `{title}\\n\\n{text}`, in place of "
        "`text_field`. An empty value (null) gives nothing; `{{` is a brace.",
    )
    separator: str = Field(
        "",
        description="Text that stands between documents inside a text file, such as `<|endoftext|>`, or `\\n\\n` for "
        "blank lines.",
    )
    cleaners: list[CleanerName] = Field(
        default_factory=list,
        description="What is done to each document, in this order. `gutenberg`: Project Gutenberg's header, licence, "
        "credits, transcriber's notes and illustration markers go; `page_numbers`; `footnotes`, with their marks; "
        "`unwrap`: hard-wrapped lines become paragraphs, verse, tables and dialogue stay; `emphasis`: `_italics_` "
        "lose their marks; `screenplay`: scripts without page furniture, spaces folded; `html`: markup becomes text; "
        "`mojibake`: text decoded wrongly is mended (ftfy); `normalize`: Unicode NFC, control characters, white space.",
    )
    dedup: DedupConfig = Field(default_factory=lambda: DedupConfig(), description="Duplicates.")
    filters: FilterConfig = Field(default_factory=lambda: FilterConfig(), description="Which documents are kept.")
    split: Literal["auto", "document", "position"] = Field(
        "auto",
        description="How validation text is held out: whole documents, or the last part of the text. `auto`: by "
        "document where there are enough of them.",
    )
    validation_fraction: Fraction = Field(0.1, description="Share of documents (or characters) held out.")
    split_seed: NonNegative = Field(0, description="Seed of the choice of held-out documents.")
    end_of_text: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether the end-of-text token closes each document. `auto`: yes, except for a single document "
        "split by position.",
    )
    packing: Literal["windows", "documents"] = Field(
        "windows",
        description="What a training sequence is. `windows`: consecutive stretches of the whole text; `documents`: "
        "whole documents packed best-fit, which do not see each other.",
    )
    stride: NonNegative = Field(
        0,
        description="Tokens from one training window to the next, where windows are to overlap (`packing = windows`): "
        "each token is then learned from about `context_length / stride` times an epoch. Validation windows never "
        "overlap. 0: `context_length`, no overlap.",
    )
    mixture: list[MixtureCorpus] = Field(
        default_factory=list,
        description="Train on several prepared folders, each made by its own config with the same tokenizer: "
        "`[[data.mixture]]` with `dir` and `weight` (1 where absent), its share of the sequences relative to the "
        "others'. In place of `source` and `dir`. Each corpus has epochs of its own, and validation takes the "
        "validation text of all.",
    )
    augment: AugmentConfig = Field(default_factory=lambda: AugmentConfig(), description="Altered copies.")

    @property
    def sources(self) -> tuple[str, ...]:
        """`source` as a tuple of the non-empty entries."""
        entries = [self.source] if isinstance(self.source, str) else self.source
        return tuple(entry for entry in entries if entry)


class TokenizerConfig(Section):
    """How text becomes ids."""

    kind: Literal["char", "byte", "bpe", "gpt2"] = Field(
        "bpe",
        description="`char`: a symbol a character of the corpus; `byte`: 256 bytes; `bpe`: byte-level BPE trained on "
        "the corpus; `gpt2`: tiktoken's GPT-2 vocabulary of 50,257.",
    )
    vocab_size: Positive = Field(4096, description="Vocabulary size of a trained `bpe`, special tokens included.")
    special_tokens: list[str] = Field(
        default_factory=list, description="Extra special tokens; `<|endoftext|>` is always there."
    )
    train_share: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Share of the corpus that a `bpe` is trained on, drawn at random from all of it in documents (of "
        "long ones, stretches of 64 kB).",
    )
    train_megabytes: float = Field(
        0.0, ge=0.0, description="The same as about this many megabytes. 0: `train_share` decides."
    )
    train_seed: NonNegative = Field(0, description="Seed of that draw.")
    path: str = Field("", description="A saved `tokenizer.json` to use instead of building one.")

    @model_validator(mode="after")
    def _check(self) -> TokenizerConfig:
        if self.train_megabytes and self.train_share < 1.0:
            raise ValueError(
                f"tokenizer.train_share = {self.train_share:g} and tokenizer.train_megabytes = "
                f"{self.train_megabytes:g} both say how much to train on; set one"
            )
        return self


class PrepareConfig(Section):
    """How the token files are made."""

    workers: NonNegative = Field(0, description="Cleaning and tokenising processes. 0: one a core.")
    executor: str = Field(
        "",
        description="Where they run. Empty: on this machine; `tcp://HOST:PORT` (or `tls://`): on the workers of a Dask "
        "scheduler, which need jslm. The files are the same.",
    )
    on_bad_document: Literal["stop", "skip"] = Field(
        "stop",
        description="What is done about a file or record that cannot be read: stop there, or go on and list it in "
        "`meta.json`.",
    )

    @model_validator(mode="after")
    def _check(self) -> PrepareConfig:
        if self.executor and not self.executor.startswith(("tcp://", "tls://")):
            raise ValueError(
                f"prepare.executor = {self.executor!r}; expected the address of a Dask scheduler, as in "
                "tcp://10.0.0.5:8786, or nothing for processes on this machine"
            )
        return self


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
    dropout: Fraction = Field(0.0, description="Dropout on embeddings, attention weights and residual branches.")
    init_std: float = Field(
        0.0,
        ge=0.0,
        description="Standard deviation of initial weights; residual projections get it / sqrt(2 layers). 0: GPT-2's "
        "0.02 at its width, `0.02 sqrt(768 / d_model)`: narrower models learn far slower from smaller weights.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute type; parameters stay float32. `auto`: the fastest the device is good at."
    )
    attention: Literal["auto", "xla", "cudnn"] = Field(
        "auto",
        description="Attention implementation. `auto`: cuDNN flash attention on GPUs where shapes allow, else XLA.",
    )
    remat: Literal["none", "dots", "full"] = Field(
        "none", description="What the backward pass recomputes: nothing, all but matrix products, whole blocks."
    )
    unroll: NonNegative = Field(
        0, description="Layers unrolled in each scan step. 0: all of them up to 8 layers, else 1."
    )

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
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


class TrainConfig(Section):
    """The training loop."""

    steps: NonNegative = Field(0, description="Optimizer steps. 0: from `epochs`.")
    epochs: float = Field(1.0, gt=0.0, description="Passes over the training tokens, where `steps` is 0.")
    batch_size: Positive = Field(32, description="Sequences an optimizer step, over all devices and micro-batches.")
    micro_batch: NonNegative = Field(
        0, description="Sequences a forward pass, over all devices; gradients add up to `batch_size`. 0: `batch_size`."
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
    ema_decay: Fraction = Field(0.0, description="Decay of an exponential moving average of parameters. 0: off.")
    max_bad_steps: Positive = Field(
        20, description="Stop after this many non-finite steps in a row; each is skipped and counted."
    )
    init_from: str = Field("", description="Run folder or model file whose weights training starts from.")
    init_checkpoint: str = Field("best", description="Which of its checkpoints: `best`, `latest`, or a step.")
    loss_chunk: NonNegative = Field(
        0, description="Tokens a cross-entropy chunk. 0: chosen so that logits stay under about 64 MB a device."
    )
    profile: bool = Field(False, description="Write a JAX profiler trace of a few steps to `profile/`.")
    report: bool = Field(True, description="Write `report.html` at the end.")
    tensorboard: bool = Field(True, description="Write TensorBoard events.")


class CheckpointConfig(Section):
    """What is kept on disk."""

    every: NonNegative = Field(0, description="Steps between checkpoints. 0: at each validation.")
    keep: Positive = Field(2, description="Newest checkpoints kept, besides the best.")


class SampleConfig(Section):
    """Text written during training, and the defaults of `python -m jslm.sample` for this run."""

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

    @model_validator(mode="after")
    def _check(self) -> Config:
        micro = self.train.micro_batch
        if micro and self.train.batch_size % micro:
            raise ValueError(f"train.micro_batch = {micro} does not divide train.batch_size = {self.train.batch_size}")
        self._check_batches()
        return self

    def _check_batches(self) -> None:
        data, context = self.data, self.model.context_length
        if data.stride and data.packing == "documents":
            raise ValueError(
                f"data.stride = {data.stride} is for data.packing = 'windows', found 'documents'; leave it at 0"
            )
        if data.stride > context:
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
            if context % stage.context:
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
