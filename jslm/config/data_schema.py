"""The sections about text and tokens: `[data]`, `[tokenizer]` and `[prepare]`; see `schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jslm.config.section import Fraction, NonNegative, Positive, Section

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
    """Which documents are kept, judged after the cleaners and before `data.dedup`. Everything is off by default."""

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

    max_dropped: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Share of the documents that one of the filters may drop; over it, `prepare` stops. 1: any number.",
    )

    @model_validator(mode="after")
    def _check(self) -> FilterConfig:
        if self.max_characters and self.max_characters < self.min_characters:
            raise ValueError(
                f"data.filters.max_characters = {self.max_characters} is under min_characters = {self.min_characters}: "
                "no document could be kept; raise it, or set it to 0 for no limit"
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
        "",
        description="Folder of the prepared token files, or its address. Empty: `data` inside `run_dir`. Made if it is "
        "absent.",
    )
    about: str = Field("", description="What the text is and where it comes from, for `meta.json` and for people.")
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
    conditions: list[str] = Field(
        default_factory=list,
        description="Keys or columns of records that say what a text is, such as `style`: each gets embeddings in the "
        "model (`model.conditions`). An empty value (null) is none. Needs `packing = documents`.",
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
    max_emptied: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="Share of the documents of which one of the cleaners may leave nothing; over it, `prepare` "
        "stops and names them: the cleaner is not for such texts. 1: any number.",
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
    prompt_end: str = Field(
        "",
        description="For prompt/completion pairs: the text that ends each document's prompt, such as `\\t`, with a "
        "`template` such as `{prompt}\\t{completion}`, or with lines of `source<TAB>target` (`format = text`, "
        "`separator = \\n`). What stands up to it, and itself, is read and never learned, in validation too. Needs "
        "`packing = documents`. Empty: everything is learned.",
    )
    messages: str = Field(
        "",
        description="For conversations: the key or column of records that holds their messages, such as "
        '`[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]`, in place of `text_field`. '
        "What the assistant says is learned, with what ends its turn; all else is read. Needs `packing = documents`.",
    )
    chat_template: str = Field(
        "plain",
        description="How conversations become text. `plain`: roles as ordinary words, for any tokenizer; `chatml`: "
        'needs `tokenizer.special_tokens = ["<|im_start|>", "<|im_end|>"]`; or the path of a Jinja file, `x.jinja`, as '
        "Hugging Face's models have them.",
    )
    rejected: str = Field(
        "",
        description="For preferences (`train.objective = dpo`): the key or column of records with the answer that was "
        "not preferred; `template` and `prompt_end` say what the prompt and the preferred answer are. Other objectives "
        "learn the preferred answers of such data.",
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

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        for key in ("separator", "template", "prompt_end"):
            if "\r" in (found := getattr(self, key)):
                raise ValueError(
                    f"data.{key} = {found!r} has a carriage return, and text is read with line feeds alone; write \\n"
                )
        return self

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
