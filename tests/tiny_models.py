"""Tiny random language models with a real tokenizer, saved to a folder and loaded back like any other model."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|begin|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)
TEXT = (
    "The island lies in the northern sea. The armed forces of the country are small, and its economy depends on fishing.\n"
    "def read_lines(path):\n    with open(path) as file:\n        return [line.strip() for line in file]\n"
    "Привіт, як справи? Добре, дякую. ¿Qué tal estás? 안녕하세요.\n"
)


def tiny_tokenizer(bos: bool = True, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 400 tokens; `<|begin|>` is its BOS, `<|end|>` its EOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>" if bos else None, eos_token="<|end|>")
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tiny_llama(folder: Path, bos: bool = True, chat: bool = True, seed: int = 0) -> Path:
    """A random 4-block Llama of width 16, grouped-query attention, saved with its tokenizer."""
    tokenizer = tiny_tokenizer(bos, chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 8, hidden_size=16, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    return _save(LlamaForCausalLM, config, tokenizer, folder, seed)


def save_tiny_gpt2(folder: Path, seed: int = 0) -> Path:
    """A random 3-block GPT-2 of width 16 (LayerNorm, learned positions, `transformer.h`)."""
    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=3, n_head=2, n_positions=128, initializer_range=0.2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return _save(GPT2LMHeadModel, config, tokenizer, folder, seed)


def _save(kind: type, config: object, tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
    for name, weight in model.named_parameters():
        if "norm" in name or "ln_" in name:  # gains and biases of their own, so that folding them is really tested
            weight.data += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
