from transformers import AutoTokenizer


def get_tokenizer(tokenizer_name, *args, tokenizer_mode="auto", trust_remote_code=False, revision=None, **kwargs):
    return AutoTokenizer.from_pretrained(tokenizer_name, trust_remote_code=trust_remote_code, **kwargs)
