"""A tokenizer that knows two words."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors


def word_tokenizer() -> Tokenizer:
    """``a`` and ``b`` between ``<s>`` and ``</s>``; everything else is unknown."""
    words = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def put_tokenizer(folder: Path) -> None:
    """Make ``folder`` one that has the tokenizer."""
    if not (folder / "tokenizer.json").is_file():
        word_tokenizer().save(str(folder / "tokenizer.json"))
