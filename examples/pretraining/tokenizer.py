"""Byte-level tokenizer of the small base: 256 bytes, six special tokens, no merges.

Every text has exactly one encoding and no byte is unknown, so a model can copy names, paths and numbers letter by
letter. Byte ``b`` has the id ``BYTE_OFFSET + b``; pre-training relies on that and encodes without the tokenizer.
This module does not know what the model is trained on.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>")
PAD, BOS, EOS, USER, ASSISTANT, SYSTEM = range(6)
BYTE_OFFSET = len(SPECIAL_TOKENS)
VOCABULARY_SIZE = BYTE_OFFSET + 256

# The template writes <bos> itself: a rendered prompt is tokenised with add_special_tokens=False.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in the byte-level alphabet of GPT-2, in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def byte_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer with chat template, as it is saved beside the model; ``max_length`` in tokens."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    vocabulary |= {symbol: BYTE_OFFSET + byte for byte, symbol in enumerate(byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>", "<system>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def encode(text: str) -> list[int]:
    """The ids of a plain text without special tokens."""
    return [BYTE_OFFSET + byte for byte in text.encode()]


def encode_turn(prompt: str, completion: str) -> tuple[list[int], int]:
    """The ids of one rendered exchange, ending in <eos>, and how many of them are prompt."""
    prompt_ids = [BOS, USER, *encode(prompt), ASSISTANT]
    return [*prompt_ids, *encode(completion), EOS], len(prompt_ids)
