"""Pages of real KV: what SmolLM2 keeps of real text, in the bytes that the host tier would hold.

Computed in float32 by transformers from the text that `bench ttft` uses; other types are the same
numbers rounded, as a server whose KV is of that type rounds them. A page is 64 tokens in the layout
that the tier gives SGLang's host pool, `page_first_direct`: K, then V, each `[layer, token, head,
dim]`.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmark import models
from benchmark.prompts import Prompts

PAGE_TOKENS = 64
MODEL = "SmolLM2-135M-Instruct"
DTYPES = ("bfloat16", "float32", "float16", "float8_e5m2", "float8_e4m3fn")

Pages = NDArray[np.uint8]
"""`[P, page_bytes]`."""


def pages(num_pages: int) -> Mapping[str, Pages]:
    """Return the pages of one prompt by the type of their numbers."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    directory = models.smollm2()
    tokens = Prompts(directory, real_text=True).next(num_pages * PAGE_TOKENS)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        cache = model(torch.tensor([tokens]), use_cache=True, logits_to_keep=1).past_key_values
    # K or V, layer, token, head, dim.
    kv = torch.stack(
        [
            torch.stack([getattr(layer, name)[0].transpose(0, 1) for layer in cache.layers])
            for name in ("keys", "values")
        ]
    )
    by_page = kv.unflatten(2, (num_pages, PAGE_TOKENS)).movedim(2, 0).flatten(1)
    return {
        name: by_page.to(getattr(torch, name)).contiguous().view(torch.uint8).numpy()
        for name in DTYPES
    }
