"""What answers requests: one file a backend, each with a class that is a model of lm-eval (`lm_eval.api.model.LM`).

A backend knows nothing of remembering: `answers.RememberedLM` wraps it, asks it only for what is not on record, and
listens to its cache hook. To add one:

1. Write `backends/{name}.py` with a subclass of one of lm-eval's models, or of `LM` (loglikelihood, generate_until,
   loglikelihood_rolling). One of lm-eval's own classes needs no file at all.
2. Report every answer to the cache hook at once (`self.cache_hook.add_partial(kind, arguments, response)`, as most of
   lm-eval's models do): what is reported survives a kill. What is only returned is recorded when the call returns.
3. If it knows how an answer came about, have an attribute `details`: a JSON-like dict about the answer that is being
   reported, {} if there is nothing to say. Known are `tokens` (how many were generated, an int) and `finish` (`stop`,
   `length` or `loop`). Without it the columns `generated_tokens` and `finish_reason` are empty.
4. Construct it in scripts/evaluate.py, and let `identity` there say which it is: answers of another backend are not
   this one's.
"""
