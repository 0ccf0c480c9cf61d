def test_tiny_model_loads_with_its_tokenizer(tiny_model_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    ids = tokenizer("the ship and the harbour", return_tensors="pt")
    assert tokenizer.decode(ids.input_ids[0], skip_special_tokens=True) == "the ship and the harbour"
    assert tokenizer.bos_token_id != tokenizer.eos_token_id
    assert "<|im_start|>user" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    logits = model(input_ids=ids.input_ids).logits
    assert logits.shape[-1] == len(tokenizer) == model.config.vocab_size
    assert 300 < len(tokenizer) <= 400


def test_tiny_study_is_valid(tiny_study):
    assert tiny_study.sae.sizes == [32, 64]
